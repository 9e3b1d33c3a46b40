//! A data directory of a world in which nothing went wrong, for who wants to damage one.

use super::oracle::Oracle;
use super::plan::{MILLISECOND, Mix, Plan};
use super::rng::Rng;
use super::world::World;
use collabblocks_storage_engine::EngineConfig;
use collabblocks_wal::sim_disk::SimDisk;

/// A data directory, and who can open it.
pub struct QuietStore {
    /// It.
    pub disk: SimDisk,
    shards: u16,
    engine: EngineConfig,
    oracle: Oracle,
}

/// The data directory that a seed's people leave, without faults and on few shards.
pub fn quiet_store(seed: u64) -> QuietStore {
    let mut rng = Rng::new(seed);
    let mut plan = Plan::of(seed, &mut rng.fork(), Mix::First);
    plan.faults.clear();
    plan.shards = plan.shards.min(2);
    plan.span = 1500 * MILLISECOND;
    let mut world = World::new(plan, rng, false);
    world.run_until(world.plan.span);
    QuietStore {
        disk: world.disk.fork(),
        shards: world.shards,
        engine: world.plan.engine.clone(),
        oracle: world.oracle,
    }
}

impl QuietStore {
    /// Opens a changed copy and reads its rooms, as far as it is not refused.
    pub fn open(&self, disk: SimDisk) {
        // Whatever it says: it was changed in ways that no checksum can tell.
        let _ = self.oracle.check_disk(disk, self.shards, &self.engine);
    }
}
