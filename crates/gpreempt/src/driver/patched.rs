//! The gpreempt KFD series: a lease on other processes' queues.
