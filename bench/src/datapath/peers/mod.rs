//! What other people run, itself and no imitation, built from its published modules (`world.toml`).

pub(super) mod cilium;
pub(super) mod etcd;
pub(super) mod flannel;
pub(super) mod program;
