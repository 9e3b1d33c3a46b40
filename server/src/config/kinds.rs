//! Settings that choose one of a few words, and the choice of cores.

use super::value::{Setting, Value, items, unwanted};

macro_rules! choice {
    ($(#[doc = $doc:literal])+ $name:ident, $wants:literal { $( $(#[doc = $variant_doc:literal])+ $variant:ident = $word:literal, )+ }) => {
        $(#[doc = $doc])+
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        pub enum $name {
            $( $(#[doc = $variant_doc])+ $variant, )+
        }

        impl $name {
            /// The word that the configuration has for it.
            pub fn word(self) -> &'static str {
                match self { $( $name::$variant => $word, )+ }
            }
        }

        impl Setting for $name {
            const WANTS: &'static str = $wants;

            fn from_value(value: &Value) -> Result<Self, String> {
                match value {
                    Value::Text(text) => match text.as_str() {
                        $( $word => Ok($name::$variant), )+
                        _ => Err(unwanted::<Self>(value)),
                    },
                    other => Err(unwanted::<Self>(other)),
                }
            }

            fn from_text(text: &str) -> Result<Self, String> {
                Self::from_value(&Value::Text(text.trim().into()))
            }

            fn to_value(&self) -> Value {
                Value::Text(self.word().into())
            }
        }
    };
}

choice! {
    /// What drives the shards.
    Runtime, "`ring` or `glommio`" {
        /// One io_uring a core and a plain loop.
        Ring = "ring",
        /// The glommio executor.
        Glommio = "glommio",
    }
}

choice! {
    /// What waits for the disk.
    Durability, "`ack` or `strict`" {
        /// Acknowledgements.
        Ack = "ack",
        /// Acknowledgements and delivery to peers.
        Strict = "strict",
    }
}

choice! {
    /// Who may connect.
    Access, "`loopback` or `open`" {
        /// Programs on this machine.
        Loopback = "loopback",
        /// Everyone who reaches the server.
        Open = "open",
    }
}

choice! {
    /// How logs are written.
    LogFormat, "`json` or `text`" {
        /// One JSON object a line.
        Json = "json",
        /// For people.
        Text = "text",
    }
}

choice! {
    /// The least important level that is logged.
    LogLevel, "`error`, `warn`, `info`, `debug` or `trace`" {
        /// Errors only.
        Error = "error",
        /// And warnings.
        Warn = "warn",
        /// And what an operator wants to know.
        Info = "info",
        /// And details.
        Debug = "debug",
        /// Everything.
        Trace = "trace",
    }
}

choice! {
    /// Whether connections begin with a PROXY protocol header.
    ProxyMode, "`off`, `optional` or `required`" {
        /// None does.
        Off = "off",
        /// Those of trusted peers may.
        Optional = "optional",
        /// All do.
        Required = "required",
    }
}

choice! {
    /// How a batch of the write-ahead log is made durable.
    WalSync, "`fdatasync`, `dsync` or `thread`" {
        /// A write, then fdatasync.
        Fdatasync = "fdatasync",
        /// One write with RWF_DSYNC.
        Dsync = "dsync",
        /// As `dsync`, on a thread of its own.
        Thread = "thread",
    }
}

/// The cores that shards run on.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Cores {
    /// All that the process may use, but one of them if there are more than three.
    Auto,
    /// So many of those that the process may use.
    Count(usize),
    /// These, by number, in this order.
    List(Vec<usize>),
}

/// More cores than any machine has; a higher number is a mistake.
const CORES_MAX: usize = 4_096;

impl Cores {
    fn count(number: i128) -> Result<Self, String> {
        match usize::try_from(number) {
            Ok(count) if (1..=CORES_MAX).contains(&count) => Ok(Cores::Count(count)),
            _ => Err(format!(
                "{number} is no number of cores; give 1 or more, or `auto`"
            )),
        }
    }

    fn list(list: Vec<usize>) -> Result<Self, String> {
        let mut sorted = list.clone();
        sorted.sort_unstable();
        if sorted.is_empty() {
            return Err("the list of cores is empty; name at least one, or give `auto`".into());
        }
        if let Some(pair) = sorted.windows(2).find(|pair| pair[0] == pair[1]) {
            return Err(format!("core {} is named twice", pair[0]));
        }
        match sorted.last() {
            Some(core) if *core >= CORES_MAX => Err(format!("there is no core {core}")),
            _ => Ok(Cores::List(list)),
        }
    }
}

impl Setting for Cores {
    const WANTS: &'static str = "`auto`, a count, or a list of core numbers";

    fn from_value(value: &Value) -> Result<Self, String> {
        match value {
            Value::Integer(number) => Cores::count(*number),
            Value::Text(text) => Cores::from_text(text),
            Value::List(list) => {
                let list: Result<Vec<usize>, String> = list.iter().map(usize::from_value).collect();
                Cores::list(list?)
            }
            other => Err(unwanted::<Self>(other)),
        }
    }

    fn from_text(text: &str) -> Result<Self, String> {
        let bare = text.trim().trim_start_matches('[').trim_end_matches(']');
        if bare == "auto" {
            return Ok(Cores::Auto);
        }
        if let Ok(count) = text.trim().parse::<u32>() {
            return Cores::count(count.into());
        }
        let mut list = Vec::new();
        for item in items(bare) {
            let (first, last) = item.split_once('-').unwrap_or((item, item));
            match (first.trim().parse::<usize>(), last.trim().parse::<usize>()) {
                (Ok(first), Ok(last)) if first <= last && last < CORES_MAX => {
                    list.extend(first..=last)
                }
                _ => return Err(unwanted::<Self>(&Value::Text(text.into()))),
            }
        }
        Cores::list(list)
    }

    fn to_value(&self) -> Value {
        match self {
            Cores::Auto => Value::Text("auto".into()),
            Cores::Count(count) => count.to_value(),
            Cores::List(list) => Value::List(list.iter().map(Setting::to_value).collect()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cores_are_read_from_text() {
        let table: &[(&str, Result<Cores, &str>)] = &[
            ("auto", Ok(Cores::Auto)),
            (" 2 ", Ok(Cores::Count(2))),
            ("2,", Ok(Cores::List(vec![2]))),
            ("[2]", Ok(Cores::List(vec![2]))),
            ("0,2", Ok(Cores::List(vec![0, 2]))),
            ("4-6,1", Ok(Cores::List(vec![4, 5, 6, 1]))),
            ("0", Err("no number of cores")),
            ("6-4", Err("wants `auto`")),
            ("1,1", Err("core 1 is named twice")),
            ("0-99999", Err("wants `auto`")),
            (",", Err("is empty")),
            ("many", Err("wants `auto`")),
        ];
        for (text, want) in table {
            match (Cores::from_text(text), want) {
                (Ok(got), Ok(want)) => assert_eq!(got, *want, "{text}"),
                (Err(got), Err(want)) => assert!(got.contains(want), "{text}: {got}"),
                (got, want) => panic!("{text}: {got:?}, wanted {want:?}"),
            }
        }
    }
}
