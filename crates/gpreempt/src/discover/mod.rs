//! Which nodes, processes and queues are there? Read from sysfs, proc and debugfs; nothing here changes anything.
