//! Which cores the shards run on.

use crate::config::Cores;
use std::path::Path;

/// Chooses the cores of the shards, as far as this process may use them: its affinity mask and its
/// cgroup's quota are respected.
pub fn choose(wanted: &Cores) -> Result<Vec<usize>, String> {
    let usable: Vec<usize> = core_affinity::get_core_ids()
        .unwrap_or_default()
        .into_iter()
        .map(|core| core.id)
        .collect();
    choose_from(wanted, usable, quota())
}

fn choose_from(
    wanted: &Cores,
    mut usable: Vec<usize>,
    quota: Option<usize>,
) -> Result<Vec<usize>, String> {
    usable.sort_unstable();
    if usable.is_empty() {
        return Err(
            "the affinity mask of this process is unknown or empty: name the cores with --cores"
                .into(),
        );
    }
    match wanted {
        Cores::Auto => {
            let cores = usable.len().min(quota.unwrap_or(usize::MAX)).max(1);
            let shards = if cores > 3 { cores - 1 } else { cores };
            // Core 0 takes most interrupts: it is the one left to the rest of the machine.
            let skipped = usable.len() - shards;
            Ok(usable.split_off(skipped))
        }
        Cores::Count(count) if *count > usable.len() => Err(format!(
            "{count} cores are asked for, but this process may use {} (affinity mask {usable:?}): lower --cores or widen the mask",
            usable.len()
        )),
        Cores::Count(count) => {
            let skipped = usable.len() - count;
            Ok(usable.split_off(skipped))
        }
        Cores::List(list) => match list.iter().find(|core| !usable.contains(core)) {
            Some(core) => Err(format!(
                "core {core} is asked for, but this process may only use {usable:?}: change --cores or the affinity mask"
            )),
            None => Ok(list.clone()),
        },
    }
}

/// Whole cores' worth of CPU time the cgroup grants, where it sets a limit.
fn quota() -> Option<usize> {
    let own = std::fs::read_to_string("/proc/self/cgroup").ok()?;
    let from_v2 = own
        .lines()
        .find_map(|line| line.strip_prefix("0::"))
        .and_then(|group| {
            let group = Path::new("/sys/fs/cgroup").join(group.trim_start_matches('/'));
            // A limit may be set on any ancestor.
            group
                .ancestors()
                .take_while(|path| path.starts_with("/sys/fs/cgroup"))
                .filter_map(|path| {
                    parse_cpu_max(&std::fs::read_to_string(path.join("cpu.max")).ok()?)
                })
                .min()
        });
    let from_v1 = || {
        let read = |name| std::fs::read_to_string(Path::new("/sys/fs/cgroup/cpu").join(name)).ok();
        parse_cpu_max(&format!(
            "{} {}",
            read("cpu.cfs_quota_us")?.trim(),
            read("cpu.cfs_period_us")?.trim()
        ))
    };
    from_v2.or_else(from_v1)
}

/// `"<quota> <period>"` in µs, `max` or a negative quota for none; rounded down, at least 1.
fn parse_cpu_max(text: &str) -> Option<usize> {
    let (quota, period) = text.trim().split_once(' ')?;
    let (quota, period) = (
        quota.parse::<i64>().ok()?,
        period.trim().parse::<i64>().ok()?,
    );
    (quota > 0 && period > 0).then(|| usize::try_from(quota / period).unwrap_or(1).max(1))
}

/// Pins the calling thread to a core.
pub fn pin(core: usize) -> Result<(), String> {
    if core_affinity::set_for_current(core_affinity::CoreId { id: core }) {
        Ok(())
    } else {
        Err(format!(
            "this thread could not be pinned to core {core}: {}",
            std::io::Error::last_os_error()
        ))
    }
}

/// Lets the calling thread, which inherited its shard's core, run on any that the process may use.
/// Where that is not allowed it stays where it is.
pub(crate) fn unpin() {
    use rustix::thread::{sched_getaffinity, sched_setaffinity};
    // The main thread is never pinned.
    let main = Some(rustix::process::getpid());
    let _ = sched_getaffinity(main).and_then(|cores| sched_setaffinity(None, &cores));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mask_and_the_quota_bound_the_choice() {
        let choose = choose_from;
        assert_eq!(
            choose(&Cores::Auto, vec![1, 0], None),
            Ok(vec![0, 1]),
            "both of two"
        );
        assert_eq!(choose(&Cores::Auto, vec![0], None), Ok(vec![0]));
        assert_eq!(
            choose(&Cores::Auto, (0..8).collect(), None),
            Ok((1..8).collect())
        );
        assert_eq!(
            choose(&Cores::Auto, (0..8).collect(), Some(2)),
            Ok(vec![6, 7])
        );
        assert_eq!(choose(&Cores::Count(1), vec![0, 1], Some(1)), Ok(vec![1]));
        assert!(
            choose(&Cores::Count(3), vec![0, 1], None)
                .unwrap_err()
                .contains("may use 2")
        );
        assert_eq!(choose(&Cores::List(vec![4]), vec![2, 4], None), Ok(vec![4]));
        assert!(
            choose(&Cores::List(vec![3]), vec![2, 4], None)
                .unwrap_err()
                .contains("core 3")
        );
        assert!(choose(&Cores::Auto, vec![], None).is_err());
    }

    #[test]
    fn quotas_are_read_in_whole_cores() {
        assert_eq!(parse_cpu_max("max 100000\n"), None);
        assert_eq!(parse_cpu_max("-1 100000"), None);
        assert_eq!(parse_cpu_max("250000 100000\n"), Some(2));
        assert_eq!(parse_cpu_max("50000 100000"), Some(1));
        assert_eq!(parse_cpu_max("junk"), None);
    }

    #[test]
    fn pinning_takes_effect_and_a_missing_core_is_an_error() {
        let usable = choose(&Cores::Count(1)).unwrap();
        std::thread::spawn(move || {
            pin(usable[0]).unwrap();
            let mask = core_affinity::get_core_ids().unwrap();
            assert_eq!(mask.iter().map(|core| core.id).collect::<Vec<_>>(), usable);
            assert!(pin(1000).is_err());
        })
        .join()
        .unwrap();
    }
}
