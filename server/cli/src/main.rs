//! The binary.
use collabblocks_server::{config, preflight, serve};
fn main() {
    let mut flags = Vec::new();
    let args: Vec<String> = std::env::args().skip(2).collect();
    for p in args.chunks(2) {
        let k: &'static str = Box::leak(
            p[0].trim_start_matches("--")
                .replace('-', "_")
                .into_boxed_str(),
        );
        flags.push((k, p[1].clone()));
    }
    let effective = config::load(&config::Inputs {
        flags,
        ..Default::default()
    })
    .unwrap();
    let prepared = match preflight::prepare(&effective) {
        Ok(p) => p,
        Err(e) => {
            eprintln!("{e}");
            std::process::exit(78)
        }
    };
    let (_tx, rx) = tokio::sync::watch::channel(false);
    if let Err(e) = serve(&effective.config, &prepared, rx, |a| {
        eprintln!("listening on {a:?}")
    }) {
        eprintln!("{e}");
        std::process::exit(1)
    }
}
