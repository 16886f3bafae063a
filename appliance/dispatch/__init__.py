"""From a validated request to its one terminal event: queue, admission, deadline, cancel. Knows no sockets."""

from appliance.dispatch.capacity import Capacity
from appliance.dispatch.dispatcher import Dispatcher
from appliance.dispatch.ticket import CancelReason, RequestSink, Ticket

__all__ = ["CancelReason", "Capacity", "Dispatcher", "RequestSink", "Ticket"]
