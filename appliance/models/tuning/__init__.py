"""Engine settings that suit this host: measured, kept with their evidence, used by `serve`."""
