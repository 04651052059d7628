//! `with-server COMMAND…` runs a command with one private database server for all the tests that
//! it runs, and ends with its exit code. The server goes when this program does.

use std::process::{Command, ExitCode};

use jobd_tests::server::{Durability, SHARED_SERVER, Server};

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let mut arguments = std::env::args_os().skip(1);
    let Some(program) = arguments.next() else {
        eprintln!("usage: with-server COMMAND…");
        return ExitCode::from(2);
    };
    let server = Server::start(Durability::ThrowAway, &[]).await;
    let status = Command::new(&program)
        .args(arguments)
        .env(SHARED_SERVER, server.address())
        .status();
    match status {
        Ok(status) => ExitCode::from(u8::try_from(status.code().unwrap_or(1)).unwrap_or(1)),
        Err(error) => {
            eprintln!("with-server: cannot run {}: {error}", program.display());
            ExitCode::from(127)
        }
    }
}
