use super::*;
use crate::config::{Access, Cores};
use std::io::Write;
use std::net::SocketAddr;

fn file(text: &str) -> tempfile::NamedTempFile {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(text.as_bytes()).unwrap();
    file
}

fn problems(text: &str) -> Vec<(usize, String)> {
    let file = file(text);
    let problems = load(&Inputs {
        file: Some(file.path().into()),
        ..Inputs::default()
    })
    .unwrap_err();
    problems
        .into_iter()
        .map(|problem| match problem.source {
            Source::File(path, line) => {
                assert_eq!(path, file.path());
                (line, problem.what)
            }
            other => panic!("{other}: {}", problem.what),
        })
        .collect()
}

#[test]
fn later_sources_come_before_earlier_ones() {
    let file =
        file("cores = [1, 0]\n[wal]\ncommit_delay_us = 1_500\nsegments_max = 8\nsync = 'dsync'\n");
    let loaded = load(&Inputs {
        file: Some(file.path().into()),
        env: vec![
            ("COLLABBLOCKS_WAL_SEGMENTS_MAX".into(), "9".into()),
            ("COLLABBLOCKS_WAL_COMMIT_DELAY_US".into(), "2_000".into()),
            ("PATH".into(), "/bin".into()),
        ],
        flags: vec![
            ("wal.commit_delay_us", "0".into()),
            ("listen", "127.0.0.1:1,[::1]:2".into()),
        ],
        ..Inputs::default()
    })
    .unwrap();
    assert_eq!(loaded.config.cores, Cores::List(vec![1, 0]));
    assert_eq!(loaded.config.wal.commit_delay_us, 0);
    assert_eq!(loaded.config.wal.segments_max, 9);
    assert_eq!(
        loaded.config.listen,
        ["127.0.0.1:1", "[::1]:2"].map(|address| address.parse::<SocketAddr>().unwrap())
    );
    assert_eq!(*loaded.source("cores"), Source::File(file.path().into(), 1));
    assert_eq!(
        *loaded.source("wal.sync"),
        Source::File(file.path().into(), 5)
    );
    assert_eq!(
        *loaded.source("wal.segments_max"),
        Source::Env("COLLABBLOCKS_WAL_SEGMENTS_MAX".into())
    );
    assert_eq!(
        *loaded.source("wal.commit_delay_us"),
        Source::Flag("wal-commit-delay-us".into())
    );
    assert_eq!(*loaded.source("data"), Source::Default);
    assert!(loaded.warnings.is_empty());
    let printed = loaded.print();
    assert!(
        printed
            .lines()
            .any(|line| line.starts_with("commit_delay_us = 0 ")
                && line.ends_with("# flag --wal-commit-delay-us")),
        "{printed}"
    );
    assert!(
        printed
            .lines()
            .any(|line| line.starts_with("data = ") && line.ends_with("# default"))
    );
}

#[test]
fn what_is_printed_can_be_loaded() {
    let loaded = load(&Inputs {
        flags: vec![("cores", "2".into()), ("data", "/a\"b\\c".into())],
        ..Inputs::default()
    });
    let loaded = loaded.unwrap();
    let file = file(&loaded.print());
    let again = load(&Inputs {
        file: Some(file.path().into()),
        ..Inputs::default()
    })
    .unwrap();
    assert_eq!(again.config, loaded.config);
}

#[test]
fn everything_wrong_in_a_file_is_told_with_its_line() {
    let table: &[(&str, &[(usize, &str)])] = &[
        (
            "lsten = []\n",
            &[(1, "unknown key lsten; did you mean listen?")],
        ),
        (
            "\n[wal]\ncomit_delay_us = 1\n",
            &[(3, "did you mean wal.commit_delay_us?")],
        ),
        (
            "commit_delay_us = 1\n",
            &[(1, "did you mean wal.commit_delay_us?")],
        ),
        ("[wla]\nsync = 'dsync'\n", &[(2, "did you mean wal.sync?")]),
        (
            "[colours]\nfavourite = 'blue'\n",
            &[(2, "`collabblocks config default`")],
        ),
        ("[zzz]\n", &[(1, "unknown key zzz")]),
        ("wal = 3\n", &[(1, "unknown key wal")]),
        (
            "[wal]\ncommit_delay_us = 2001\n",
            &[(2, "more than the most allowed, 2000")],
        ),
        ("[wal]\ncommit_delay_us = -1\n", &[(2, "out of range")]),
        (
            "[wal]\ncommit_delay_us = '1'\n",
            &[(2, "wants a whole number, got \"1\"")],
        ),
        (
            "[wal]\nsegment_bytes = 67108865\n",
            &[(2, "not a multiple of 4096")],
        ),
        (
            "[wal]\nsegment_bytes = 1e6\n",
            &[(2, "a number with a fraction")],
        ),
        (
            "durability = 'maybe'\n",
            &[(1, "wants `ack` or `strict`, got \"maybe\"")],
        ),
        (
            "listen = ['localhost']\n",
            &[(1, "such as `127.0.0.1:8080`")],
        ),
        ("listen = ['0.0.0.0:80']\n", &[(1, "set access = \"open\"")]),
        ("data = ''\n", &[(1, "empty")]),
        ("a = \n", &[(1, "not TOML")]),
        ("data = 'a'\ndata = 'b'\n", &[(2, "not TOML")]),
        (
            "runtime = 'tokio'\nlog.level = 'loud'\n",
            &[(1, "`ring`"), (2, "`error`")],
        ),
    ];
    for (text, want) in table {
        let got = problems(text);
        assert_eq!(got.len(), want.len(), "{text}: {got:?}");
        for ((line, what), (want_line, want_what)) in got.iter().zip(*want) {
            assert_eq!(line, want_line, "{text}: {what}");
            assert!(what.contains(want_what), "{text}: {what}");
        }
    }
}

#[test]
fn an_absent_file_is_told() {
    let problem = &load(&Inputs {
        file: Some("/nowhere/c.toml".into()),
        ..Inputs::default()
    })
    .unwrap_err()[0];
    // There is no line in it.
    let begin = "/nowhere/c.toml: the configuration file cannot be read: ";
    assert!(problem.to_string().starts_with(begin), "{problem}");
}

#[test]
fn a_problem_names_its_key_once() {
    let told = |name: &'static str, text: &str| {
        let inputs = Inputs {
            flags: vec![(name, text.into())],
            ..Inputs::default()
        };
        load(&inputs).unwrap_err()[0].to_string()
    };
    let flag = told("listen", "0.0.0.0:0");
    assert!(
        flag.starts_with("--listen: 0.0.0.0:0 is not a loopback address"),
        "{flag}"
    );
    // What is missing was given nowhere.
    let missing = told("tls.certificate", "a.pem");
    assert!(
        missing.starts_with("tls.key: tls.certificate is given"),
        "{missing}"
    );
    let file = file("cores = 'x'\n");
    let inputs = Inputs {
        file: Some(file.path().into()),
        ..Inputs::default()
    };
    let line = load(&inputs).unwrap_err()[0].to_string();
    assert!(line.contains(":1: cores: "), "{line}");
}

#[test]
fn keys_that_are_not_used_may_be_missing() {
    let mut inputs = Inputs {
        flags: vec![("tls.certificate", "a.pem".into())],
        ..Inputs::default()
    };
    assert_eq!(load(&inputs).unwrap_err()[0].key, Some("tls.key"));
    inputs.unused = vec!["tls.key"];
    assert!(load(&inputs).is_ok());
}

#[test]
fn mistaken_variables_are_refused_and_others_left_alone() {
    let env = |name: &str, value: &str| Inputs {
        env: vec![(name.into(), value.into())],
        ..Inputs::default()
    };
    for (name, near) in [
        ("COLLABBLOCKS_LISTN", "COLLABBLOCKS_LISTEN?"),
        (
            "COLLABBLOCKS_WAL_DELAY_US",
            "COLLABBLOCKS_WAL_COMMIT_DELAY_US?",
        ),
        (
            "COLLABBLOCKS_LIMITS_ZZZZZZZZZZZZZZZZZZZZZ",
            "config default",
        ),
    ] {
        let problem = &load(&env(name, "1")).unwrap_err()[0];
        assert!(problem.what.contains(near), "{problem}");
        assert_eq!(problem.source, Source::Env(name.into()));
    }
    for name in ["COLLABBLOCKS_CONFIG", "COLLABBLOCKS_SEED", "OTHER_LISTN"] {
        assert!(load(&env(name, "1")).unwrap().warnings.is_empty(), "{name}");
    }
    let loaded = load(&env("COLLABBLOCKS_SERVICE_HOST", "10.0.0.1")).unwrap();
    assert!(loaded.warnings[0].contains("COLLABBLOCKS_SERVICE_HOST"));
    let problem = &load(&env("COLLABBLOCKS_ACCESS", "all")).unwrap_err()[0];
    assert!(
        problem
            .to_string()
            .starts_with("environment COLLABBLOCKS_ACCESS: wants"),
        "{problem}"
    );
    assert_eq!(
        load(&env("COLLABBLOCKS_ACCESS", "open"))
            .unwrap()
            .config
            .access,
        Access::Open
    );
}

#[test]
fn distances_count_edits() {
    for (a, b, want) in [
        ("", "", 0),
        ("a", "", 1),
        ("listen", "lsiten", 1),
        ("abc", "abd", 1),
        ("abc", "xyz", 3),
    ] {
        assert_eq!(distance(a, b), want, "{a} {b}");
    }
}
