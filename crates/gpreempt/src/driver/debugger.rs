//! DBG_TRAP on a stock kernel: the traditional way, one process at a time.
