//! Exit codes, as `--help` documents them.

use collabblocks_server::preflight::{EXIT_CONFIG, EXIT_UNAVAILABLE};
use collabblocks_server::server::EXIT_FATAL;

/// All went well.
pub const OK: u8 = 0;
/// What was asked for failed.
pub const FAILED: u8 = 1;
/// The configuration has to change.
pub const CONFIG: u8 = EXIT_CONFIG;

/// The paragraph of `--help`.
pub fn help() -> String {
    format!(
        "Exit codes:\n  {OK}   done; the server was told to stop and everything acknowledged is on disk\n  \
         {FAILED}   failed: a check failed, the server is not ready, a log is damaged, or stopping took too long\n  \
         2   the command line is not understood\n  \
         {EXIT_UNAVAILABLE}  the machine lacks something: the sentence on standard error says what to do\n  \
         {EXIT_FATAL}  the disk failed while serving, a core hung or the server has a fault: nothing more was acknowledged\n  \
         {EXIT_CONFIG}  the configuration has to change: standard error says where"
    )
}
