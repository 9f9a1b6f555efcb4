"""Values of the text config _base_/schedules/schedule_1x, for `with read_base()`."""

globals().update(__import__('ghmdet').config.shipped.shipped_values('_base_/schedules/schedule_1x'))
