//! Files that runtimes and plugins find.

use std::fs;

use anyhow::{Context, Result, ensure};

use super::{Cuts, Kept, kept};

/// The socket and its directory, and that who asks is answered.
fn reachable(kept: &Kept<'_>) -> Result<String> {
    let told = kept.run(&format!("stat -c %a_%F {} {}", kept.host.run_dir().display(), kept.host.socket().display()))?;
    kept.host.call("STATUS").run()?.silence()?;
    Ok(told)
}

#[test]
fn a_list_that_was_removed() -> Result<()> {
    kept(|kept| {
        let list = kept.host.conflist();
        kept.comes_back("the list", Cuts::Nothing, &["network_list"], || Ok(fs::remove_file(&list)?), || Ok(fs::read_to_string(&list)?))
    })
}

#[test]
fn a_socket_that_was_removed() -> Result<()> {
    kept(|kept| {
        let alter = || Ok(fs::remove_file(kept.host.socket())?);
        kept.comes_back("the socket", Cuts::Nothing, &["socket"], alter, || reachable(kept))
    })
}

#[test]
fn a_socket_that_was_replaced_by_a_file() -> Result<()> {
    kept(|kept| {
        let alter = || {
            fs::remove_file(kept.host.socket())?;
            Ok(fs::write(kept.host.socket(), "a file")?)
        };
        kept.comes_back("the socket", Cuts::Nothing, &["socket"], alter, || reachable(kept))
    })
}

#[test]
fn modes_that_were_changed() -> Result<()> {
    kept(|kept| {
        for (path, kind) in [(kept.host.run_dir(), "run_directory"), (kept.host.socket(), "socket")] {
            let alter = || kept.run(&format!("chmod 777 {}", path.display())).map(drop);
            kept.comes_back("the mode", Cuts::Nothing, &[kind], alter, || reachable(kept))?;
        }
        Ok(())
    })
}

#[test]
fn a_socket_that_cannot_be_made_again_is_told() -> Result<()> {
    kept(|kept| {
        // The daemon may make it again in between.
        kept.daemon.wait_until("a directory in its place", || {
            fs::remove_file(kept.host.socket())?;
            Ok(fs::create_dir(kept.host.socket())?)
        })?;
        kept.daemon.wait_for_condition(
            "SocketNotServed",
            "ListenFailed",
            &["plugins do not reach barewired", "remove what is in its place"],
        )?;
        fs::remove_dir(kept.host.socket())?;
        kept.daemon.wait_for_end_of("SocketNotServed")
    })
}

#[test]
fn a_store_that_was_removed_is_told() -> Result<()> {
    kept(|kept| {
        let (store, aside) = (kept.host.run_dir().join("store.redb"), kept.host.path("aside"));
        fs::rename(&store, &aside)?;
        kept.daemon.wait_for_condition("RunDirectoryLost", "FilesRemoved", &["store.redb", "restart barewired"])?;
        let (pod, _) = kept.host.attached().context("pods are served meanwhile")?;
        kept.host.call_for("DEL", &pod).run()?.silence()?;
        fs::rename(&aside, &store)?;
        kept.daemon.wait_for_end_of("RunDirectoryLost")?;
        ensure!(kept.daemon.pool()?["attachments"] == 2);
        Ok(())
    })
}
