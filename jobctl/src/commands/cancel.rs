//! `cancel`: ends jobs, wherever they are.

use jobd_proto::master::MasterRequest;
use jobd_proto::worker::{CancelFate, CancelReply, WorkerRequest};

use super::Context;
use super::ids::named;
use super::outcome::about;
use crate::cli::CancelArgs;
use crate::client::LONG_LIMIT;
use crate::failure::Failure;
use crate::output::Tone;
use crate::settings::Kind;

/// Asks for it; 1 if any job had ended, or nothing could be done.
pub(crate) async fn run(context: &Context, args: CancelArgs) -> Result<u8, Failure> {
    let chosen = named(context, args.jobs).await?;
    chosen.confirm("ends", args.yes).await?;
    let ids = chosen.jobs.into_iter().map(|job| job.id).collect();
    let (kind, data) = match context.kind() {
        Kind::Worker => {
            let request = WorkerRequest::Cancel { ids, held: false };
            (request.kind(), request.data())
        }
        Kind::Master => {
            let request = MasterRequest::Cancel { ids };
            (request.kind(), request.data())
        }
    };
    let client = context.client().await?;
    let reply: CancelReply = client.ask_within(LONG_LIMIT, kind, data).await?;
    context.screen.show(&reply, |reply| {
        let mut text = String::new();
        for (id, fate) in &reply.jobs {
            let (tone, said) = match fate {
                CancelFate::Cancelled => (Tone::Good, "cancelled"),
                CancelFate::Stopping => (Tone::Good, "running, its processes are being stopped"),
                CancelFate::Requested => (Tone::Good, "asked its worker to stop it"),
                CancelFate::TooLate => (Tone::Bad, "too late, it had ended"),
            };
            text += &(context.screen.tone(tone, &format!("job {id}: {said}")) + "\n");
        }
        for (id, error) in &reply.errors {
            let said = about(*id, error);
            text += &(context.screen.tone(Tone::Bad, &said) + "\n");
        }
        text
    })?;
    let late = |fate: &CancelFate| *fate == CancelFate::TooLate;
    let failed = !reply.errors.is_empty() || reply.jobs.values().any(late);
    Ok(u8::from(failed))
}
