//! A cloud to test against: what EC2 promises about network interfaces, kept to the letter, and on request the ways in which a
//! cloud falls short of its promises.
//!
//! - [`cloud`] is the state: subnets, instances, interfaces, limits, token buckets, faults. Pure: no I/O, time is an argument,
//!   chance comes from a seed. A simulation of thousands of nodes under a virtual clock uses it in process.
//! - [`ec2`] is the EC2 Query API over it, [`metadata`] the instance-metadata services of AWS, Azure and Google Cloud: functions from
//!   an HTTP request to an HTTP reply, pure as well.
//! - [`http`] puts them on sockets, beside a control API, and tells a [`fabric::Fabric`] what changed.
//!
//! One model serves all three clouds: an Azure ipConfiguration is a secondary address of an interface, a Google Cloud alias range is a
//! prefix of one. Addresses are reserved in a subnet as AWS reserves them.
#![forbid(unsafe_code)]

pub mod cloud;
pub mod ec2;
pub mod exchange;
pub mod fabric;
pub mod faults;
pub mod http;
pub mod metadata;
pub mod time;
