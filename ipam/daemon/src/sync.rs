//! Locks of what operations share. With the feature `shuttle` they are that library's, so that a test can run operations in every order
//! that threads could (`tests/concurrency`).

#[cfg(feature = "shuttle")]
pub(crate) use shuttle::sync::{Condvar, Mutex, MutexGuard};
#[cfg(not(feature = "shuttle"))]
pub(crate) use std::sync::{Condvar, Mutex, MutexGuard};
