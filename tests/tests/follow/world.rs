//! A table, and workers whose jobs wait for the test.

use jobd_tests::programs::Daemon;
use jobd_tests::{Database, Ini, Jobd, Master, Scratch, Server};
use serde_json::json;

/// See the module.
pub struct World {
    pub scratch: Scratch,
    pub database: Database,
}

impl World {
    pub async fn new() -> Self {
        let database = Server::shared().await.database().await;
        database.minimal_table().await;
        Self {
            scratch: Scratch::new(),
            database,
        }
    }

    /// A worker whose jobs run this shell script, with the id as `$1`. `wait NAME` in it waits until the test lets
    /// it go on.
    pub fn script(&self, text: &str) -> Ini {
        let folder = self.scratch.join("");
        let wait = format!(
            "wait() {{ while [ ! -e {}/$1 ]; do sleep 0.02; done; }}\n",
            folder.display()
        );
        let path = self.scratch.write("job.sh", wait + text);
        Ini::worker(&self.database)
            .set("log_level_console", "info")
            .set("poll_interval", 0)
            .set("launcher", format!("bash {} {{id}}", path.display()))
            .target("a", 8)
    }

    pub fn go_on(&self, name: &str) {
        self.scratch.write(name, "");
    }

    pub async fn waiting(&self) -> u64 {
        self.database.insert_one("a", "waiting").await
    }

    /// A job that runs.
    pub async fn running(&self, jobd: &Daemon) -> u64 {
        let id = self.waiting().await;
        jobd.ask("poll", json!({})).await;
        self.database.reaches(id, "running").await;
        id
    }

    /// A master, and this worker registered with it.
    pub async fn with_master(&self, worker: Ini) -> (Daemon, Daemon) {
        let ini = Ini::listen();
        let master = Master::start(&self.scratch, &ini).await;
        let worker = worker
            .set("master_host", "127.0.0.1")
            .set("master_port", ini.port())
            .set("master_reconnect_timeout", 1);
        let jobd = Jobd::ready(&self.scratch, &worker).await;
        Master::has_workers(&master, 1).await;
        (master, jobd)
    }
}
