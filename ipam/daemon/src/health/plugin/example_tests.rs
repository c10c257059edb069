//! The examples in deploy/examples/health, with a tree and with tools of our own.

use std::fs;
use std::path::Path;

use super::tests::{ran, sh};
use super::*;

/// By `sh`, as the repository may be anybody's.
fn example(name: &str, arguments: &[&str]) -> Verdict {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy/examples/health").join(name);
    let arguments = std::iter::once(script.display().to_string()).chain(arguments.iter().map(|argument| (*argument).to_owned()));
    ran(&PluginConfig { arguments: arguments.collect(), ..sh("") })
}

/// A tool that says this and ends so. A child writes it: what this process has open for writing, children of other tests could hold.
fn tool(folder: &Path, says: &str, code: i32) -> String {
    let (file, text) = (folder.join(format!("tool-{code}")), folder.join("says"));
    fs::write(&text, says).unwrap();
    let script = format!("#!/bin/sh\ncat {}\nexit {code}\n", text.display());
    let written = Command::new("/bin/sh").args(["-c", "printf %s \"$1\" > \"$0\" && chmod 755 \"$0\""]).arg(&file).arg(script).status();
    assert!(written.unwrap().success());
    file.display().to_string()
}

#[test]
fn ports_of_infiniband() {
    let sysfs = tempfile::tempdir().unwrap();
    let root = sysfs.path().display().to_string();
    assert_eq!(example("infiniband-ports", &["all", &root]).result(), "unknown", "there is none");
    assert_eq!(example("infiniband-ports", &["2", &root]).message(), "0 of 2 ports are active;");
    let port = |device: &str, state: &str, physical: &str| {
        let folder = sysfs.path().join("class/infiniband").join(device).join("ports/1");
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join("state"), format!("{state}\n")).unwrap();
        fs::write(folder.join("phys_state"), format!("{physical}\n")).unwrap();
    };
    port("mlx5_0", "4: ACTIVE", "5: LinkUp");
    port("mlx5_1", "4: ACTIVE", "5: LinkUp");
    assert_eq!(example("infiniband-ports", &["all", &root]), Verdict::Ok);
    port("mlx5_1", "1: DOWN", "2: Polling");
    let seen = "1 of 2 ports are active; mlx5_1/1 is 1: DOWN (2: Polling)";
    assert_eq!(example("infiniband-ports", &["all", &root]), Verdict::Failed(seen.to_owned()));
    assert_eq!(example("infiniband-ports", &["1", &root]), Verdict::Ok, "the other has no cable");
    assert_eq!(example("infiniband-ports", &["two", &root]).result(), "unknown");
}

#[test]
fn gpus_by_nvidia_smi() {
    let folder = tempfile::tempdir().unwrap();
    let said = |says: &str, code: i32, want: &str| example("nvidia-gpus", &[want, &tool(folder.path(), says, code)]);
    assert_eq!(said("0, 0, No, No\n1, [N/A], [N/A], [N/A]\n", 0, "2"), Verdict::Ok);
    assert_eq!(said("0, 0, No, No\n", 0, "2"), Verdict::Failed("1 of 2 GPUs are there;".to_owned()));
    let seen = "GPU 0: 3 uncorrected errors; GPU 1: rows wait to be remapped;";
    assert_eq!(said("0, 3, No, No\n1, 0, Yes, No\n", 0, "2"), Verdict::Failed(seen.to_owned()));
    assert_eq!(said("NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver.\n", 9, "1").result(), "failed");
    assert_eq!(said("Field \"remapped_rows.failure\" is not a valid field to query.\n", 2, "1").result(), "unknown");
    assert_eq!(said("hello\n", 0, "1"), Verdict::Unknown("exit code 3, which is neither 0 nor 1: not understood: hello".to_owned()));
    assert!(example("nvidia-gpus", &["1", "/nowhere/nvidia-smi"]).message().contains("there is no /nowhere/nvidia-smi"));
}

#[test]
fn xids_by_dcgm() {
    let folder = tempfile::tempdir().unwrap();
    let said = |says: &str, code: i32| example("dcgm-xid", &[&tool(folder.path(), says, code)]);
    let head = "#Entity   XIDER\nID\n";
    assert_eq!(said(&format!("{head}GPU 0     0\nGPU 1     N/A\n"), 0), Verdict::Ok);
    assert_eq!(said(&format!("{head}GPU 0     13\n"), 0), Verdict::Ok, "an application's fault");
    assert_eq!(said(&format!("{head}GPU 0     0\nGPU 1     79\n"), 0), Verdict::Failed("GPU 1: Xid 79;".to_owned()));
    assert_eq!(said("Error: unable to establish a connection\n", 255).result(), "unknown");
    assert_eq!(said(head, 0).result(), "unknown");
}
