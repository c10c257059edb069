//! The yardstick of the benchmarks: nothing, built as the plugin is. What it takes is what the start of any program takes here.
#![cfg_attr(not(test), no_main)]

use std::ffi::c_int;

#[cfg_attr(not(test), unsafe(no_mangle))]
extern "C" fn main() -> c_int {
    0
}
