//! What happens in a history: drawn from its seed before it begins, so that it can be printed, repeated and
//! made shorter.

use super::random::Random;

/// Microseconds since the history began.
pub(super) type Time = u64;

pub(super) const MS: Time = 1_000;
pub(super) const SECOND: Time = 1_000_000;

/// `lease`, long enough for the worker's own pauses (up to 5 s) to matter as they do with the default of 30 s.
pub(super) const LEASE: Time = 6 * SECOND;

/// Faults begin before this moment.
const TROUBLE: Time = 2 * LEASE;

/// What may go wrong in a history.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// The table with ownership; everything may happen.
    Everything,
    /// The table with ownership; workers die, freeze, are cut off.
    Workers,
    /// The table with ownership; the database is away, slow, loses answers, refuses.
    Database,
    /// The least table; workers die and are started again with `state_dir`.
    Minimal,
}

/// A history.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    pub(super) seed: u64,
    pub(super) minimal: bool,
    pub(super) skip_locked: bool,
    pub(super) workers: Vec<WorkerPlan>,
    /// When every fault is over.
    pub(super) heals: Time,
    /// In the order of their times.
    pub(super) deeds: Vec<(Time, Deed)>,
}

/// A worker and its host.
#[derive(Clone, Debug)]
pub(super) struct WorkerPlan {
    /// By target.
    pub(super) concurrency: [u32; TARGETS],
    pub(super) state_dir: bool,
    /// How fast its clocks are, in millionths beside the truth.
    pub(super) drift: i64,
    /// When it was booted, in seconds before the history.
    pub(super) booted: u64,
    pub(super) poll_ms: u64,
    pub(super) drain_ms: u64,
}

/// Each is served by every worker.
pub(super) const TARGETS: usize = 2;

/// Something that happens.
#[derive(Clone, Debug)]
pub(super) enum Deed {
    /// An application adds a row, and pokes or not.
    Add {
        target: usize,
        manual: bool,
        /// 0 for as many as the workers' configs say.
        attempts: i64,
        priority: i64,
        poke: bool,
        /// Not before so many seconds have passed.
        later: Option<i64>,
    },
    /// A poke reaches a worker.
    Poke(usize),
    /// A client asks a worker for every manual row.
    RunManual(usize),
    /// A client asks a worker to cancel a row.
    Cancel {
        worker: usize,
        pick: u64,
    },
    /// An application asks for it in the row, where the table has a column for that.
    AskToCancel(u64),
    Pause {
        worker: usize,
        target: usize,
    },
    Continue {
        worker: usize,
        target: usize,
    },
    Concurrency {
        worker: usize,
        target: usize,
        most: u32,
    },
    /// kill -9; its guard ends its jobs. Started again after so long.
    Kill {
        worker: usize,
        away: Time,
    },
    /// Worker, guard and jobs are gone at once.
    PowerLoss {
        worker: usize,
        away: Time,
    },
    /// SIGSTOP.
    Freeze {
        worker: usize,
        span: Time,
    },
    /// kill -9 of its guard alone.
    KillGuard {
        worker: usize,
    },
    /// SIGTERM, a second one after so long, and a start when it has ended.
    Drain {
        worker: usize,
        second: Option<Time>,
    },
    /// The system has no room for a process.
    NoRoom {
        worker: usize,
        span: Time,
    },
    /// Nobody reaches the database; silently, or with an error.
    Away {
        span: Time,
        silent: bool,
    },
    /// One worker does not.
    CutOff {
        worker: usize,
        span: Time,
        silent: bool,
    },
    /// Requests take up to so long to arrive.
    Slow {
        span: Time,
        most: Time,
    },
    /// Answers do.
    SlowAnswers {
        span: Time,
        most: Time,
    },
    /// So many in a hundred statements lose their connection before or after they take effect.
    Lossy {
        span: Time,
        percent: u64,
        after: bool,
    },
    /// So many in a hundred statements are rolled back.
    Conflicts {
        span: Time,
        percent: u64,
    },
    /// So many in a hundred UPDATEs are refused.
    Refusals {
        span: Time,
        percent: u64,
    },
    /// Somebody puts a row back to `waiting`, or to `done`, by hand.
    Hand {
        pick: u64,
        done: bool,
    },
    /// The database's clock jumps, by so many seconds.
    Clock(i64),
}

impl Deed {
    /// How long it lasts.
    pub(super) fn span(&self) -> Time {
        match *self {
            Self::Kill { away, .. } | Self::PowerLoss { away, .. } => away,
            Self::Freeze { span, .. }
            | Self::NoRoom { span, .. }
            | Self::Away { span, .. }
            | Self::CutOff { span, .. }
            | Self::Slow { span, .. }
            | Self::SlowAnswers { span, .. }
            | Self::Lossy { span, .. }
            | Self::Conflicts { span, .. }
            | Self::Refusals { span, .. } => span,
            _ => 0,
        }
    }
}

impl Plan {
    /// Whether nothing ever happens that may cost a job its attempt.
    pub(super) fn is_harmless(&self) -> bool {
        let harmless = |deed: &Deed| {
            matches!(
                deed,
                Deed::Add { .. }
                    | Deed::Poke(_)
                    | Deed::RunManual(_)
                    | Deed::Pause { .. }
                    | Deed::Continue { .. }
                    | Deed::Concurrency { .. }
                    | Deed::KillGuard { .. }
                    | Deed::NoRoom { .. }
                    | Deed::Clock(_)
            )
        };
        self.deeds.iter().all(|(_, deed)| harmless(deed))
    }

    pub(super) fn new(seed: u64, kind: Kind) -> Self {
        let mut random = Random::new(seed);
        let minimal = kind == Kind::Minimal;
        let count = 2 + u64::from(random.percent(25));
        let workers: Vec<WorkerPlan> = (0..count).map(|_| worker(&mut random, minimal)).collect();
        let choices = match kind {
            Kind::Everything => 0..15,
            Kind::Workers => 0..7,
            Kind::Database => 7..15,
            Kind::Minimal => 2..14,
        };
        let mut plan = Self {
            seed,
            minimal,
            skip_locked: random.percent(60),
            workers,
            heals: 0,
            deeds: Vec::new(),
        };
        // Now and then so many that rows queue before their slots.
        let jobs = if random.percent(20) {
            random.between(10, 20)
        } else {
            random.between(3, 9)
        };
        for _ in 0..jobs {
            let deed = Deed::Add {
                target: pick(&mut random, TARGETS),
                manual: random.percent(20),
                attempts: [1, 2, 2, 3, 0][pick(&mut random, 5)],
                priority: [0, 0, 0, 5, -3][pick(&mut random, 5)],
                poke: random.percent(70),
                later: random
                    .percent(20)
                    .then(|| [-1, 0, 2, 9][pick(&mut random, 4)]),
            };
            let at = if random.percent(70) {
                random.below(2 * SECOND)
            } else {
                random.below(TROUBLE)
            };
            plan.deeds.push((at, deed));
        }
        for _ in 0..random.between(1, 4) {
            plan.deeds
                .push((random.below(TROUBLE), plan.people(&mut random)));
        }
        // A few kinds of faults again and again find more than one of each: what hurts comes in company.
        let kinds: Vec<u64> = (0..random.between(1, 4))
            .map(|_| random.between(choices.start, choices.end))
            .collect();
        for _ in 0..random.between(1, 6) {
            let number = kinds[pick(&mut random, kinds.len())];
            let fault = plan.fault(&mut random, number);
            plan.deeds
                .push((random.between(SECOND / 5, TROUBLE), fault));
        }
        plan.deeds.sort_by_key(|(at, _)| *at);
        let over = plan.deeds.iter().map(|(at, deed)| at + deed.span());
        plan.heals = over.max().unwrap_or(0) + 100 * MS;
        plan
    }

    fn people(&self, random: &mut Random) -> Deed {
        let worker = pick(random, self.workers.len());
        let target = pick(random, TARGETS);
        match random.below(11) {
            0 => Deed::Pause { worker, target },
            1 => Deed::Continue { worker, target },
            2 => Deed::Concurrency {
                worker,
                target,
                most: 1 + u32::try_from(random.below(3)).unwrap(),
            },
            3 => Deed::Poke(worker),
            8 | 9 => Deed::Cancel {
                worker,
                pick: random.next(),
            },
            10 => Deed::AskToCancel(random.next()),
            _ => Deed::RunManual(worker),
        }
    }

    fn fault(&self, random: &mut Random, number: u64) -> Deed {
        let worker = pick(random, self.workers.len());
        // Most outages are short; some outlast a lease.
        let span = if random.percent(70) {
            random.between(20 * MS, LEASE / 2)
        } else {
            random.between(LEASE / 2, 2 * LEASE)
        };
        let away = random.between(10 * MS, LEASE);
        let silent = random.percent(50);
        let percent = [3, 10, 30][pick(random, 3)];
        match number {
            0 => Deed::PowerLoss { worker, away },
            1 => Deed::CutOff {
                worker,
                span,
                silent,
            },
            2 => Deed::Kill { worker, away },
            3 => Deed::Freeze {
                worker,
                span: span.max(100 * MS),
            },
            4 => Deed::KillGuard { worker },
            5 => Deed::Drain {
                worker,
                second: random.percent(30).then(|| random.below(SECOND)),
            },
            6 => Deed::NoRoom { worker, span },
            7 => Deed::Away { span, silent },
            8 => Deed::Slow {
                span,
                most: [20 * MS, 300 * MS, 4 * SECOND][pick(random, 3)],
            },
            9 => Deed::SlowAnswers {
                span,
                most: [20 * MS, 300 * MS, 8 * SECOND][pick(random, 3)],
            },
            10 => Deed::Lossy {
                span,
                percent,
                after: false,
            },
            11 => Deed::Lossy {
                span,
                percent,
                after: true,
            },
            12 => Deed::Conflicts { span, percent },
            13 => Deed::Refusals { span, percent },
            _ if random.percent(50) => Deed::Hand {
                pick: random.next(),
                done: random.percent(30),
            },
            _ => Deed::Clock([-3600, -7, 5, 3600][pick(random, 4)]),
        }
    }
}

fn worker(random: &mut Random, minimal: bool) -> WorkerPlan {
    WorkerPlan {
        concurrency: std::array::from_fn(|_| 1 + u32::try_from(random.below(3)).unwrap()),
        state_dir: minimal || random.percent(40),
        drift: i64::try_from(random.below(20_001)).unwrap() - 10_000,
        booted: random.below(1 << 20),
        poll_ms: random.between(500, 5_000),
        drain_ms: random.below(4_000),
    }
}

fn pick(random: &mut Random, count: usize) -> usize {
    usize::try_from(random.below(count as u64)).unwrap()
}
