//! Watches the slots of every node, warns when they run low, and takes idle offline queues off the hardware.
