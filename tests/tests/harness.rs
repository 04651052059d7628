//! The ground itself: servers start, survive a kill, and leave nothing behind.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use jobd_tests::process::Process;
use jobd_tests::server::{Durability, SHARED_SERVER, Server};
use jobd_tests::{Scratch, programs, until};

#[tokio::test]
async fn a_database_of_its_own_for_each_test() {
    let server = Server::shared().await;
    let (one, two) = (server.database().await, server.database().await);
    assert_ne!(one.name, two.name);
    one.minimal_table().await;
    two.minimal_table().await;
    let ids = one.insert(300, "a", "waiting").await;
    assert_eq!((ids[0], ids[299]), (1, 300));
    assert_eq!(one.row(300).await.status, "waiting");
    assert!(two.rows().await.is_empty());
}

#[tokio::test]
async fn a_killed_server_comes_back_with_what_was_committed() {
    let mut server = Server::start(Durability::Real, &[]).await;
    let database = server.database().await;
    database.minimal_table().await;
    let port = server.port();
    database.insert(10, "a", "waiting").await;
    server.kill();
    let refused = tokio::net::TcpStream::connect(("127.0.0.1", port)).await;
    assert!(refused.is_err(), "something still listens");
    server.start_again().await;
    assert_eq!(database.rows().await.len(), 10);
}

#[tokio::test]
async fn a_killed_test_leaves_neither_server_nor_folder() {
    let scratch = Scratch::new();
    let told = scratch.join("address");
    let mut command = Command::new(programs::path("with-server"));
    command
        .args([
            "sh",
            "-c",
            r#"echo "$JOBD_TEST_SERVER" >"$0.new" && mv "$0.new" "$0" && sleep 60"#,
        ])
        .arg(&told)
        .env_remove(SHARED_SERVER);
    let mut owner = Process::start(&command, &scratch.join("with-server.log"));
    let address = until("a server", Duration::from_mins(1), async || {
        assert!(owner.ended().is_none(), "{}", owner.log());
        std::fs::read_to_string(&told).ok()
    })
    .await;
    let mut parts = address.trim().split(' ');
    let port: u16 = parts.next().unwrap().parse().unwrap();
    let folder = Path::new(parts.next().unwrap())
        .parent()
        .unwrap()
        .to_owned();
    assert!(folder.exists());
    let connect = async || tokio::net::TcpStream::connect(("127.0.0.1", port)).await;
    assert!(connect().await.is_ok());

    owner.kill();

    let limit = Duration::from_secs(10);
    until("the server to be gone", limit, async || {
        connect().await.err()
    })
    .await;
    until("its folder to be gone", limit, async || {
        (!folder.exists()).then_some(())
    })
    .await;
}
