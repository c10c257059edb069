//! Nothing: what it costs to execute it is what it costs to execute any program linked as the plugin is.
#![forbid(unsafe_code)]

fn main() {}
