//! Which of the rows that a client asked for may run, and what it is told of the others. Pure.

use jobd_proto::{JobId, Pattern, TargetName};

use super::connection::Taken;
use super::{Abilities, Claimed};
use crate::job::ClaimToken;

/// A row that a manual claim has locked.
pub(super) struct Found {
    pub(super) row: Taken,
    pub(super) status: String,
    pub(super) target: String,
}

/// Sorts `wanted` ids by what was found. The error texts are the protocol's.
pub(super) fn sort(
    wanted: &[JobId],
    found: Vec<Found>,
    served: &[TargetName],
    ignore_case: bool,
    token: &ClaimToken,
    abilities: Abilities,
) -> Claimed {
    let mut claimed = Claimed::default();
    let mut missing: std::collections::BTreeSet<JobId> = wanted.iter().copied().collect();
    for Found {
        row,
        status,
        target,
    } in found
    {
        // A padded list may ask for a row twice.
        if !missing.remove(&row.id) {
            continue;
        }
        if status != "manual" {
            claimed
                .errors
                .insert(row.id, format!("status = {status} != manual"));
        } else if let Some(target) = serving(&target, served, ignore_case) {
            claimed.jobs.push(row.job(&target, token, 1, abilities));
        } else {
            claimed.errors.insert(
                row.id,
                format!("target '{target}' not found (job id={})", row.id),
            );
        }
    }
    claimed.errors.extend(
        missing
            .into_iter()
            .map(|id| (id, format!("job {id} not found"))),
    );
    claimed
}

/// The served target that a row belongs to, or its own where a pattern serves it: what `target = …` in a poll would say. Comparisons in
/// the database ignore trailing spaces and, under most collations, case.
fn serving(target: &str, served: &[TargetName], ignore_case: bool) -> Option<TargetName> {
    let target = target.trim_end_matches(' ');
    let loosely =
        |name: &TargetName| ignore_case && name.as_str().to_lowercase() == target.to_lowercase();
    let mut patterns = Vec::new();
    let mut names = Vec::new();
    for name in served {
        match Pattern::of(name) {
            Some(pattern) if ignore_case => patterns.push(pattern.ignoring_case()),
            Some(pattern) => patterns.push(pattern),
            None => names.push(name),
        }
    }
    let exact = names.iter().find(|name| name.as_str() == target);
    if let Some(name) = exact.or_else(|| names.iter().find(|name| loosely(name))) {
        return Some((*name).clone());
    }
    let mut patterns = patterns.iter();
    let matching = patterns.any(|pattern| pattern.matches(target));
    matching.then(|| TargetName::new(target).ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_wanted_id_gets_a_job_or_an_error() {
        let served = [TargetName::new("mail").unwrap()];
        let row = |id, status: &str, target: &str| Found {
            row: Taken::new(id, [0; 5], [None; 2]),
            status: status.into(),
            target: target.into(),
        };
        let found = vec![
            row(1, "manual", "Mail "),
            row(2, "done", "mail"),
            row(3, "manual", "x"),
            row(1, "manual", "Mail "),
        ];
        let token = crate::job::Tokens::new("w", "h", 1).next(crate::job::Origin::Manual);
        let wanted = [1, 2, 3, 4].map(JobId);
        let claimed = sort(&wanted, found, &served, true, &token, Abilities::default());
        assert_eq!(
            claimed.jobs.iter().map(|job| job.id).collect::<Vec<_>>(),
            [JobId(1)]
        );
        let errors: Vec<&str> = claimed.errors.values().map(String::as_str).collect();
        assert_eq!(
            errors,
            [
                "status = done != manual",
                "target 'x' not found (job id=3)",
                "job 4 not found"
            ]
        );
    }

    #[test]
    fn case_counts_where_the_database_says_so() {
        let served = [TargetName::new("mail").unwrap()];
        assert!(serving("Mail", &served, false).is_none());
        assert!(serving("mail", &served, false).is_some());
    }

    #[test]
    fn a_pattern_serves_a_row_by_its_own_target() {
        let served = ["mail", "user/*"].map(|name| TargetName::new(name).unwrap());
        let target = |name: &str, ignore_case| {
            serving(name, &served, ignore_case).map(|target| target.to_string())
        };
        assert_eq!(target("user/7 ", false).as_deref(), Some("user/7"));
        assert_eq!(target("User/7", false), None);
        assert_eq!(target("User/7", true).as_deref(), Some("User/7"));
        assert_eq!(target("user/*", true), None, "no row is meant by it");
    }
}
