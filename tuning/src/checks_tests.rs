use super::*;
use crate::facts::BlockDevice;

/// A host with nothing to say against it.
pub(crate) fn good() -> Facts {
    Facts {
        kernel_release: Some("6.12.0".into()),
        cores: Some(8),
        io_uring_disabled: Some(0),
        ring: Some(RingProbe::Works),
        memlock_bytes: Some(u64::MAX),
        files: Some(1 << 20),
        may_raise_limits: false,
        log_on_thread: Some(false),
        certificate: Some(Certificate::None),
        cpu_pressure_percent: Some(3.0),
        somaxconn: Some(4096),
        tcp_max_syn_backlog: Some(4096),
        governors: Some(vec!["performance".into()]),
        huge_pages: Some("madvise".into()),
        block: Some(BlockDevice {
            name: "nvme0n1".into(),
            scheduler: Some("none".into()),
            write_cache: Some("write through".into()),
            rotational: Some(false),
        }),
        disk: Some(DiskProbe::Synced {
            p50_us: 80,
            p99_us: 300,
        }),
        disk_free_bytes: Some(1 << 40),
        clocksource: Some("tsc".into()),
        swap_bytes: Some(0),
        swappiness: Some(60),
        irqbalance: Some(false),
        smt_active: Some(false),
    }
}

fn certificate(holds_in_s: i64, expires_in_s: i64) -> Option<Certificate> {
    Some(Certificate::Dated {
        not_after: "then".into(),
        holds_in_s,
        expires_in_s,
    })
}

fn block(facts: &mut Facts) -> &mut BlockDevice {
    facts.block.as_mut().unwrap()
}

#[test]
fn a_good_host_passes_every_check() {
    for finding in evaluate(&good()) {
        assert_eq!(finding.status, Status::Ok, "{finding:?}");
    }
}

#[test]
fn nothing_known_is_unknown_and_no_failure() {
    for finding in evaluate(&Facts::default()) {
        assert_eq!(finding.status, Status::Unknown, "{finding:?}");
    }
}

#[test]
fn each_check_is_judged_by_its_fact_alone() {
    use Status::{Fail, Ok, Warn};
    type Change = fn(&mut Facts);
    let table: &[(&str, Status, &str, Change)] = &[
        ("kernel", Fail, "5.15", |f| {
            f.kernel_release = Some("5.15.0-91".into())
        }),
        ("kernel", Ok, "6.1", |f| {
            f.kernel_release = Some("6.1.0".into())
        }),
        ("kernel", Ok, "10.0", |f| {
            f.kernel_release = Some("10.0-rc1".into())
        }),
        ("io_uring", Fail, "denied", |f| {
            f.ring = Some(RingProbe::Fails("denied".into()))
        }),
        ("io_uring", Warn, "io_uring_disabled = 1", |f| {
            f.io_uring_disabled = Some(1)
        }),
        ("io_uring", Ok, "works", |f| f.io_uring_disabled = None),
        ("certificate", Ok, "expires at then", |f| {
            f.certificate = certificate(-1, CERTIFICATE_LEFT_S_MIN)
        }),
        ("certificate", Warn, "expires at then", |f| {
            f.certificate = certificate(0, CERTIFICATE_LEFT_S_MIN - 1)
        }),
        ("certificate", Fail, "expired at then", |f| {
            f.certificate = certificate(-1, -1)
        }),
        ("certificate", Fail, "not hold yet", |f| {
            f.certificate = certificate(1, CERTIFICATE_LEFT_S_MIN)
        }),
        ("certificate", Fail, "no PEM", |f| {
            f.certificate = Some(Certificate::Unusable("no PEM".into()))
        }),
        ("memlock", Warn, "63.9 MiB", |f| {
            f.memlock_bytes = Some((64 << 20) - 1)
        }),
        ("memlock", Ok, "this user may raise", |f| {
            (f.memlock_bytes, f.may_raise_limits) = (Some(0), true)
        }),
        ("files", Warn, "1024", |f| f.files = Some(1024)),
        ("files", Fail, "255", |f| f.files = Some(255)),
        ("somaxconn", Warn, "128", |f| f.somaxconn = Some(128)),
        ("syn_backlog", Warn, "512", |f| {
            f.tcp_max_syn_backlog = Some(512)
        }),
        ("governor", Warn, "powersave", |f| {
            f.governors = Some(vec!["performance".into(), "powersave".into()])
        }),
        ("huge_pages", Warn, "always", |f| {
            f.huge_pages = Some("always".into())
        }),
        ("huge_pages", Ok, "never", |f| {
            f.huge_pages = Some("never".into())
        }),
        ("scheduler", Warn, "bfq on nvme0n1", |f| {
            block(f).scheduler = Some("bfq".into())
        }),
        ("scheduler", Warn, "mq-deadline", |f| {
            block(f).scheduler = Some("mq-deadline".into())
        }),
        ("scheduler", Ok, "mq-deadline", |f| {
            block(f).scheduler = Some("mq-deadline".into());
            block(f).rotational = Some(true);
        }),
        ("write_cache", Ok, "write back", |f| {
            block(f).write_cache = Some("write back".into())
        }),
        ("sync", Warn, "p50 2001", |f| {
            f.disk = Some(DiskProbe::Synced {
                p50_us: 2_001,
                p99_us: 2_001,
            })
        }),
        ("sync", Warn, "p99 20001", |f| {
            f.disk = Some(DiskProbe::Synced {
                p50_us: 80,
                p99_us: 20_001,
            })
        }),
        ("sync", Warn, "p50 1 ", |f| {
            f.disk = Some(DiskProbe::Synced {
                p50_us: 1,
                p99_us: 2,
            })
        }),
        ("space", Warn, "1000", |f| f.disk_free_bytes = Some(1_000)),
        ("clocksource", Warn, "hpet", |f| {
            f.clocksource = Some("hpet".into())
        }),
        ("swap", Warn, "1 GiB, swappiness 60", |f| {
            f.swap_bytes = Some(1 << 30)
        }),
        ("swap", Ok, "swappiness 1", |f| {
            (f.swap_bytes, f.swappiness) = (Some(1 << 30), Some(1))
        }),
        ("log_sync", Warn, "40 %", |f| {
            f.cpu_pressure_percent = Some(40.0)
        }),
        ("log_sync", Ok, "thread", |f| {
            (f.cpu_pressure_percent, f.log_on_thread) = (Some(40.0), Some(true))
        }),
        ("irqbalance", Warn, "running", |f| f.irqbalance = Some(true)),
        ("irqbalance", Ok, "running", |f| {
            (f.irqbalance, f.cores) = (Some(true), Some(2))
        }),
        ("smt", Ok, "two or more", |f| f.smt_active = Some(true)),
    ];
    for (id, status, current, change) in table {
        let mut facts = good();
        change(&mut facts);
        for finding in evaluate(&facts) {
            if finding.id == *id {
                assert_eq!(finding.status, *status, "{finding:?}");
                assert!(finding.current.contains(current), "{finding:?}");
            } else {
                assert_eq!(finding.status, Ok, "{id} changed {finding:?}");
            }
        }
    }
    for check in checks() {
        assert!(
            table.iter().any(|(id, ..)| *id == check.id) || check.id == "direct",
            "{} has no row",
            check.id
        );
    }
}

#[test]
fn a_slow_volatile_cache_is_told() {
    let mut facts = good();
    block(&mut facts).write_cache = Some("write back".into());
    facts.disk = Some(DiskProbe::Synced {
        p50_us: 1_500,
        p99_us: 1_500,
    });
    let finding = evaluate(&facts)
        .into_iter()
        .find(|finding| finding.id == "write_cache")
        .unwrap();
    assert_eq!(finding.status, Status::Warn);
}

#[test]
fn a_directory_without_direct_writes_fails_and_its_syncs_are_unknown() {
    for (probe, current) in [
        (DiskProbe::NotDirect, "refused"),
        (DiskProbe::Fails("read-only".into()), "read-only"),
    ] {
        let findings = evaluate(&Facts {
            disk: Some(probe),
            ..good()
        });
        let of = |id: &str| findings.iter().find(|finding| finding.id == id).unwrap();
        assert_eq!(of("direct").status, Status::Fail);
        assert!(of("direct").current.contains(current));
        assert_eq!(of("sync").status, Status::Unknown);
    }
}

#[test]
fn the_disk_is_named_in_what_to_do() {
    let of = |facts: &Facts| {
        evaluate(facts)
            .into_iter()
            .find(|finding| finding.id == "scheduler")
            .unwrap()
            .how
    };
    assert!(of(&good()).contains("/sys/block/nvme0n1/queue"));
    assert!(of(&Facts::default()).contains("/sys/block/<disk>/queue"));
}

#[test]
fn ids_are_unique_and_every_check_says_why_and_how() {
    let mut ids: Vec<_> = checks().iter().map(|check| check.id).collect();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), checks().len());
    for check in checks() {
        assert!(
            check.why.len() > 20 && check.how.len() > 10 && !check.wanted.is_empty(),
            "{}",
            check.id
        );
    }
}

#[test]
fn bytes_are_told_in_units_and_as_a_number() {
    for (bytes, told) in [
        (0, "0 bytes"),
        (1023, "1023 bytes"),
        (1 << 10, "1 KiB"),
        (64 << 20, "64 MiB"),
        ((64 << 20) - 1, "63.9 MiB"),
        (30_819_962_880, "28.7 GiB"),
        (u64::MAX - 1, "17179869183.9 GiB"),
        (u64::MAX, "unlimited"),
    ] {
        assert_eq!(amount_bytes(bytes), told);
    }
    let facts = Facts {
        disk_free_bytes: Some(30_819_962_880),
        ..good()
    };
    let all = evaluate(&facts);
    let of = |id: &str| all.iter().find(|finding| finding.id == id).unwrap();
    assert_eq!(of("space").current, "28.7 GiB");
    let json = serde_json::to_value(of("space")).unwrap();
    assert_eq!(json["current_bytes"], 30_819_962_880_u64);
    assert_eq!(of("memlock").current_bytes, None, "unlimited");
    let json = serde_json::to_value(of("kernel")).unwrap();
    assert!(json.get("current_bytes").is_none());
}
