//! What shows that Barewire keeps its word: the CNI specification as a runnable suite, the lab and the end-to-end suites.
#![forbid(unsafe_code)]

pub mod conform;
pub mod cri;
pub mod demo;
pub mod harness;
pub mod host;
pub mod image;
pub mod kube_proxy;
pub mod lab;
pub mod world;
