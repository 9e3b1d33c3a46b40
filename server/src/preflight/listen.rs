//! Whether the addresses to listen on are this machine's and free.

use super::Refusal;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::time::{Duration, Instant};

/// How long a taken address may take to become free: the kernel lets go of a killed server's
/// sockets only when it has torn down its rings, which is after the process has ended.
const PATIENCE: Duration = Duration::from_secs(1);
const RETRY_EVERY: Duration = Duration::from_millis(20);

/// Binds each address once and lets go of it. With `optional`, those that the machine does not
/// have are left out of what is returned.
pub(super) fn probe(addresses: &[SocketAddr], optional: bool) -> Result<Vec<SocketAddr>, Refusal> {
    let mut usable = Vec::new();
    let mut absent = None;
    for address in addresses {
        // Without SO_REUSEPORT, so that a second server is noticed.
        match bind(address) {
            Ok(_) => usable.push(*address),
            Err(error) if optional && is_absent(&error) => absent = Some(refusal(*address, &error)),
            Err(error) => return Err(refusal(*address, &error)),
        }
    }
    match absent {
        Some(refusal) if usable.is_empty() => Err(refusal),
        _ => Ok(usable),
    }
}

/// Binds, and waits a moment for an address that is being let go of.
fn bind(address: &SocketAddr) -> io::Result<TcpListener> {
    let begun = Instant::now();
    loop {
        match TcpListener::bind(address) {
            Err(error)
                if error.kind() == io::ErrorKind::AddrInUse && begun.elapsed() < PATIENCE =>
            {
                std::thread::sleep(RETRY_EVERY);
            }
            result => return result,
        }
    }
}

fn is_absent(error: &io::Error) -> bool {
    let errno = rustix::io::Errno::from_io_error(error);
    error.kind() == io::ErrorKind::AddrNotAvailable || errno == Some(rustix::io::Errno::AFNOSUPPORT)
}

fn refusal(address: SocketAddr, error: &io::Error) -> Refusal {
    match error.kind() {
        io::ErrorKind::AddrInUse => Refusal::unavailable(format!(
            "the address {address} is taken: stop what listens there (`ss -ltnp 'sport = :{}'` names it), or choose \
             another with --listen",
            address.port()
        )),
        io::ErrorKind::PermissionDenied => Refusal::config(format!(
            "the address {address} may not be listened on: choose a port from 1024 with --listen, or grant \
             CAP_NET_BIND_SERVICE"
        )),
        _ if is_absent(error) => Refusal::config(format!(
            "the address {address} is not one of this machine's: choose one that `ip address` shows with --listen"
        )),
        _ => Refusal::unavailable(format!(
            "the address {address} cannot be listened on ({error}): choose another"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_that_becomes_free_is_waited_for() {
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = taken.local_addr().unwrap();
        let holder = std::thread::spawn(move || {
            std::thread::sleep(PATIENCE / 4);
            drop(taken);
        });
        assert_eq!(probe(&[address], false).unwrap(), [address]);
        holder.join().unwrap();
    }

    #[test]
    fn absent_addresses_are_left_out_only_where_optional() {
        // 192.0.2.0/24 is for documentation: no machine has it.
        let absent: SocketAddr = "192.0.2.1:0".parse().unwrap();
        let here: SocketAddr = "127.0.0.1:0".parse().unwrap();
        assert_eq!(probe(&[here, absent], true).unwrap(), [here]);
        for (addresses, optional) in [(vec![here, absent], false), (vec![absent], true)] {
            let refusal = probe(&addresses, optional).unwrap_err();
            assert!(
                refusal
                    .sentence
                    .contains("192.0.2.1:0 is not one of this machine's"),
                "{refusal}"
            );
        }
        assert!(probe(&[], false).unwrap().is_empty());
    }

    #[test]
    fn errors_say_what_to_do() {
        use rustix::io::Errno;
        let address = "127.0.0.1:80".parse().unwrap();
        for (errno, code, want) in [
            (Errno::ADDRINUSE, 69, "ss -ltnp"),
            (Errno::ACCESS, 78, "CAP_NET_BIND_SERVICE"),
            (Errno::AFNOSUPPORT, 78, "ip address"),
            (Errno::NOBUFS, 69, "choose another"),
        ] {
            let refusal = refusal(address, &errno.into());
            assert!(refusal.sentence.contains(want), "{refusal}");
            assert_eq!(refusal.exit_code, code, "{refusal}");
        }
    }
}
