//! How a job is stopped: signals and pauses, one after the other, with SIGKILL at the end. Pure.

use std::time::Duration;

use rustix::process::Signal;
use tokio::time::Instant;

/// Steps of a sequence: nobody needs as many.
const MAX_STEPS: usize = 16;

/// The longest that a job may take to die: a shutdown waits for it.
pub const MAX_DURATION: Duration = Duration::from_mins(10);

/// `kill_sequence`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KillSequence {
    /// Each with its moment since the beginning, in order; the last one is SIGKILL.
    steps: Vec<(Duration, Signal)>,
}

impl KillSequence {
    /// SIGTERM, and SIGKILL after `grace`: what `kill_grace` says.
    pub fn with_grace(grace: Duration) -> Self {
        Self {
            steps: vec![(Duration::ZERO, Signal::TERM), (grace, Signal::KILL)],
        }
    }

    /// Signals by name and pauses, between commas. `None` unless KILL is the last and stands there only; `pause` reads
    /// a time.
    pub fn parse(text: &str, pause: impl Fn(&str) -> Option<Duration>) -> Option<Self> {
        let mut steps = Vec::new();
        let mut at = Duration::ZERO;
        for word in text.split(',').map(str::trim) {
            if let Some(pause) = pause(word) {
                at = at.checked_add(pause)?;
            } else {
                let number = jobd_proto::signal::number(word)?;
                steps.push((at, Signal::from_named_raw(number)?));
            }
        }
        let kills = steps.iter().position(|(_, signal)| *signal == Signal::KILL);
        let ends_well = kills.is_some_and(|kill| kill + 1 == steps.len() && steps[kill].0 == at);
        (ends_well && steps.len() <= MAX_STEPS && at <= MAX_DURATION).then_some(Self { steps })
    }

    /// When SIGKILL goes out.
    pub fn duration(&self) -> Duration {
        self.steps.last().map_or(Duration::ZERO, |(at, _)| *at)
    }

    /// Begins it at `now`. Where it would take longer than `within`, every pause is shortened alike.
    pub(super) fn begin(&self, now: Instant, within: Option<Duration>) -> Ladder {
        let whole = self.duration();
        let squeezed = |at: Duration| match within {
            Some(within) if within < whole => at.mul_f64(within.div_duration_f64(whole)),
            _ => at,
        };
        let steps = self.steps.iter().rev();
        Ladder {
            steps: steps
                .map(|(at, signal)| (now + squeezed(*at), *signal))
                .collect(),
        }
    }
}

/// A sequence that has begun.
#[derive(Debug)]
pub(super) struct Ladder {
    /// What is still to be sent; the next one is the last.
    steps: Vec<(Instant, Signal)>,
}

impl Ladder {
    /// When the next signal is due; `None` after SIGKILL.
    pub(super) fn next(&self) -> Option<Instant> {
        self.steps.last().map(|(at, _)| *at)
    }

    /// The next signal that is due by `now`.
    pub(super) fn due(&mut self, now: Instant) -> Option<Signal> {
        self.next().filter(|at| *at <= now)?;
        self.steps.pop().map(|(_, signal)| signal)
    }

    /// SIGKILL goes out by `end`, and what is due later is left out.
    pub(super) fn hurry(&mut self, end: Instant) {
        if let Some((kill, _)) = self.steps.first_mut() {
            *kill = end.min(*kill);
        }
        self.steps
            .retain(|(at, signal)| *at <= end || *signal == Signal::KILL);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Option<KillSequence> {
        KillSequence::parse(text, |word| {
            let ms = word.strip_suffix("ms")?.parse().ok()?;
            Some(Duration::from_millis(ms))
        })
    }

    /// What goes out until the end, with its moment in milliseconds.
    fn sent(mut ladder: Ladder, began: Instant) -> Vec<(u128, Signal)> {
        let mut sent = Vec::new();
        while let Some(at) = ladder.next() {
            assert_eq!(ladder.due(at - Duration::from_micros(1)), None);
            let signal = ladder.due(at).expect("it is due");
            sent.push(((at - began).as_millis(), signal));
        }
        sent
    }

    #[test]
    fn signals_go_out_after_their_pauses_and_kill_at_the_end() {
        let now = Instant::now();
        let sequence = parse("INT, 100ms,TERM,sigusr1,300ms,100ms,KILL").unwrap();
        assert_eq!(sequence.duration(), Duration::from_millis(500));
        let (int, term, usr1, kill) = (Signal::INT, Signal::TERM, Signal::USR1, Signal::KILL);
        let whole = [(0, int), (100, term), (100, usr1), (500, kill)];
        assert_eq!(sent(sequence.begin(now, None), now), whole);
        let more = Some(Duration::from_secs(1));
        assert_eq!(sent(sequence.begin(now, more), now), whole);
        let half = Some(Duration::from_millis(250));
        let squeezed = [(0, int), (50, term), (50, usr1), (250, kill)];
        assert_eq!(sent(sequence.begin(now, half), now), squeezed);
        let at_once = [(0, int), (0, term), (0, usr1), (0, kill)];
        assert_eq!(
            sent(sequence.begin(now, Some(Duration::ZERO)), now),
            at_once
        );

        let mut ladder = sequence.begin(now, None);
        assert_eq!(ladder.due(now), Some(int));
        ladder.hurry(now + Duration::from_millis(20));
        assert_eq!(sent(ladder, now), [(20, kill)]);

        let grace = KillSequence::with_grace(Duration::from_millis(9));
        assert_eq!(parse("TERM,9ms,KILL"), Some(grace));
        assert_eq!(parse("KILL").unwrap().duration(), Duration::ZERO);
    }

    #[test]
    fn what_does_not_end_with_kill_is_no_sequence() {
        for wrong in [
            "",
            "TERM",
            "TERM,9ms",
            "KILL,TERM",
            "KILL,9ms",
            "KILL,KILL",
            "TERM,,KILL",
            "TERM,9,KILL",
            "TERM,600001ms,KILL",
            "NOPE,KILL",
            "SIG34,KILL",
            "TERM 9ms KILL",
        ] {
            assert_eq!(parse(wrong), None, "{wrong}");
        }
        let long = "TERM,".repeat(MAX_STEPS) + "KILL";
        assert_eq!(parse(&long), None);
        assert!(parse(&long[5..]).is_some());
    }
}
