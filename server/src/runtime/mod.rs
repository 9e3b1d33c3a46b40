//! Runtimes: whoever owns a shard, feeds it events and carries out its effects.
