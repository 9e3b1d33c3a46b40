//! The smallest plan that still fails as a seed's did.

use super::plan::{MICROSECOND, Plan};
use super::rng::Rng;
use super::run::{mix, run_plan};

/// Other chances that are tried with each smaller plan: what is left out shifts all that is drawn.
const TRIES: u64 = 12;

/// A plan, and which chances it is run with.
#[derive(Clone)]
struct Case {
    plan: Plan,
    chances: u64,
}

impl Case {
    fn run(&self, seed: u64, print: bool) -> Option<String> {
        let mut rng = Rng::new(seed);
        rng.fork();
        if self.chances > 0 {
            rng = Rng::new(seed ^ (self.chances << 48));
        }
        run_plan(self.plan.clone(), rng, print).err()
    }
}

/// Takes away from a failing seed's plan what can go while it fails in the same way, and tells of it
/// on standard output; with `print`, then also all that happens in the smallest. `false` if the seed
/// does not fail.
pub fn shrink(seed: u64, print: bool) -> bool {
    let plan = Plan::of(seed, &mut Rng::new(seed).fork(), mix(seed));
    let mut case = Case { plan, chances: 0 };
    let Some(mut why) = case.run(seed, false) else {
        return false;
    };
    println!("seed {seed}: {why}");
    let wanted = kind(&why);
    let mut runs = 1;
    'smaller: loop {
        for (what, plan) in smaller(&case.plan) {
            for chances in std::iter::once(case.chances).chain(0..TRIES) {
                let smaller = Case {
                    plan: plan.clone(),
                    chances,
                };
                runs += 1;
                if let Some(again) = smaller.run(seed, false).filter(|why| kind(why) == wanted) {
                    println!("  {what}");
                    (case, why) = (smaller, again);
                    continue 'smaller;
                }
            }
        }
        break;
    }
    println!(
        "the smallest after {runs} runs: {:#?}\nchances {}: {why}",
        case.plan, case.chances
    );
    if print {
        case.run(seed, true);
    }
    true
}

/// What a violation says, without numbers, names and content.
fn kind(why: &str) -> String {
    let plain = why.split(['[', '{', '"', '(']).next().unwrap_or(why);
    let words = plain.chars().filter(|c| c.is_alphabetic() || *c == ' ');
    words.take(60).collect()
}

/// Plans with a little less in them, the greatest steps first.
fn smaller(plan: &Plan) -> Vec<(String, Plan)> {
    let mut plans = Vec::new();
    let mut add = |what: String, change: &dyn Fn(&mut Plan)| {
        let mut smaller = plan.clone();
        change(&mut smaller);
        plans.push((what, smaller));
    };
    for part in [2, 4, 8] {
        let span = plan.span - plan.span / part;
        add(format!("it ends after {} ms", span / 1_000_000), &|plan| {
            plan.span = span;
            plan.faults.retain(|(at, _)| *at < span);
        });
    }
    for (index, fault) in plan.faults.iter().enumerate() {
        add(format!("without {fault:?}"), &|plan| {
            plan.faults.remove(index);
        });
    }
    for index in 0..plan.hearsay.len() {
        add(format!("without hearsay {index}"), &|plan| {
            plan.hearsay.remove(index);
        });
    }
    for (index, client) in plan.clients.iter().enumerate() {
        if plan.clients.len() > 1 {
            add(
                format!("without client {} {client:?}", index + 1),
                &|plan| {
                    plan.clients.remove(index);
                },
            );
        }
    }
    if plan.rooms.len() > 1 {
        add("one room".into(), &|plan| {
            plan.rooms.truncate(1);
            plan.clients.iter_mut().for_each(|(_, room)| *room = 0);
        });
    }
    if plan.shards > 1 {
        add("one shard fewer".into(), &|plan| plan.shards -= 1);
    }
    if plan.pace.end < 1_000 * 1_000_000 {
        add("half as many doings".into(), &|plan| {
            plan.pace = plan.pace.start * 2..plan.pace.end * 2;
        });
    }
    let mut simple = |what: &str, is: bool, change: &dyn Fn(&mut Plan)| {
        if !is {
            add(what.into(), change);
        }
    };
    simple("large sockets", plan.socket_bytes == 64 << 10, &|plan| {
        plan.socket_bytes = 64 << 10;
    });
    simple("large mailboxes", plan.mailbox_parcels == 1024, &|plan| {
        plan.mailbox_parcels = 1024
    });
    simple(
        "quick turns",
        plan.turn_delay.end == 5 * MICROSECOND,
        &|plan| plan.turn_delay = MICROSECOND..5 * MICROSECOND,
    );
    simple(
        "a quick network",
        plan.latency.end <= 40 * MICROSECOND,
        &|plan| {
            plan.latency = 5 * MICROSECOND..40 * MICROSECOND;
        },
    );
    simple("not strict", !plan.strict, &|plan| plan.strict = false);
    plans
}
