"""Installation on a host with systemd: releases, units, account, settings. Knows no daemon and no model."""
