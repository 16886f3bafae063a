"""Load on an appliance, measured from outside: workloads, targets, samples, reports. Knows the client, no server."""
