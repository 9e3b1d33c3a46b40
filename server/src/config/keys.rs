//! The table of keys, and the macro that declares the structs and the table in one.

use super::Config;
use super::value::{Setting, Value};

/// What a value must keep to beyond its type.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Bound {
    /// Nothing.
    Any,
    /// A number from the first to the second, both allowed.
    Range(u64, u64),
    /// As [`Bound::Range`], and a multiple of 4096.
    Blocks(u64, u64),
}

impl Bound {
    /// Says what is wrong with a value, if anything is.
    pub(crate) fn check(self, value: &Value) -> Result<(), String> {
        let Value::Integer(number) = *value else {
            assert!(self == Bound::Any, "a bound on something that is no number");
            return Ok(());
        };
        let (min, max, blocks) = match self {
            Bound::Any => return Ok(()),
            Bound::Range(min, max) => (min, max, false),
            Bound::Blocks(min, max) => (min, max, true),
        };
        if number < i128::from(min) {
            Err(format!("{number} is less than the least allowed, {min}"))
        } else if number > i128::from(max) {
            Err(format!("{number} is more than the most allowed, {max}"))
        } else if blocks && number % 4096 != 0 {
            Err(format!("{number} is not a multiple of 4096"))
        } else {
            Ok(())
        }
    }
}

/// One key of the configuration.
#[derive(Debug)]
pub struct Key {
    /// Its name in the file, with its group: `wal.commit_delay_us`.
    pub name: &'static str,
    /// What is wanted, for messages and documents: `a whole number`.
    pub wants: &'static str,
    /// Whether it is a list, so that its flag may be given several times.
    pub list: bool,
    /// What the value must keep to.
    pub bound: Bound,
    pub(crate) doc: &'static str,
    pub(crate) get: fn(&Config) -> Value,
    pub(crate) set_value: fn(&mut Config, &Value) -> Result<(), String>,
    pub(crate) set_text: fn(&mut Config, &str) -> Result<(), String>,
}

impl Key {
    /// All keys, in the order of the documentation.
    pub fn all() -> &'static [Key] {
        super::KEYS
    }

    /// The key of that name.
    pub fn find(name: &str) -> Option<&'static Key> {
        Key::all().iter().find(|key| key.name == name)
    }

    /// The environment variable that overrides it: `COLLABBLOCKS_WAL_COMMIT_DELAY_US`.
    pub fn env(&self) -> String {
        format!(
            "COLLABBLOCKS_{}",
            self.name.replace('.', "_").to_ascii_uppercase()
        )
    }

    /// The flag that overrides it, without its dashes: `wal-commit-delay-us`.
    pub fn flag(&self) -> String {
        self.name.replace(['.', '_'], "-")
    }

    /// The group it is in, empty for the top: `wal`.
    pub fn group(&self) -> &'static str {
        self.name.split_once('.').map_or("", |(group, _)| group)
    }

    /// What it means, in one paragraph of plain text.
    pub fn help(&self) -> String {
        self.doc.split_whitespace().collect::<Vec<_>>().join(" ")
    }

    /// Its value in a configuration, as the file would have it.
    pub fn value(&self, config: &Config) -> String {
        (self.get)(config).to_string()
    }
}

/// Puts a checked value into a field.
pub(crate) fn put<T: Setting>(
    field: &mut T,
    value: Result<T, String>,
    bound: Bound,
) -> Result<(), String> {
    let value = value?;
    bound.check(&value.to_value())?;
    *field = value;
    Ok(())
}

/// Declares the configuration's structs with their defaults, and `KEYS`, the table of their keys.
macro_rules! config {
    (@key $doc:expr, $name:expr, $type:ty, $bound:expr, $($path:ident).+) => {
        crate::config::keys::Key {
            name: $name,
            wants: <$type as crate::config::value::Setting>::WANTS,
            list: <$type as crate::config::value::Setting>::LIST,
            bound: $bound,
            doc: $doc,
            get: |config| crate::config::value::Setting::to_value(&config.$($path).+),
            set_value: |config, value| {
                let value = <$type as crate::config::value::Setting>::from_value(value);
                crate::config::keys::put(&mut config.$($path).+, value, $bound)
            },
            set_text: |config, text| {
                let value = <$type as crate::config::value::Setting>::from_text(text);
                crate::config::keys::put(&mut config.$($path).+, value, $bound)
            },
        }
    };
    (
        $(#[doc = $config_doc:literal])+
        Config {
            $( $(#[doc = $doc:literal])+ $field:ident: $type:ty = $default:expr, $bound:expr; )+
        }
        $(
            $(#[doc = $group_doc:literal])+
            $group:ident: $Group:ident {
                $( $(#[doc = $key_doc:literal])+ $key:ident: $key_type:ty = $key_default:expr, $key_bound:expr; )+
            }
        )+
    ) => {
        $(#[doc = $config_doc])+
        #[derive(Clone, PartialEq, Debug)]
        pub struct Config {
            $( $(#[doc = $doc])+ pub $field: $type, )+
            $( $(#[doc = $group_doc])+ pub $group: $Group, )+
        }

        impl Default for Config {
            fn default() -> Self {
                Self { $( $field: $default, )+ $( $group: $Group::default(), )+ }
            }
        }

        $(
            $(#[doc = $group_doc])+
            #[derive(Clone, PartialEq, Debug)]
            pub struct $Group {
                $( $(#[doc = $key_doc])+ pub $key: $key_type, )+
            }

            impl Default for $Group {
                fn default() -> Self {
                    Self { $( $key: $key_default, )+ }
                }
            }
        )+

        static KEYS: &[Key] = &[
            $( crate::config::keys::config!(
                @key concat!($($doc, "\n"),+), stringify!($field), $type, $bound, $field
            ), )+
            $( $( crate::config::keys::config!(
                @key concat!($($key_doc, "\n"),+),
                concat!(stringify!($group), ".", stringify!($key)),
                $key_type, $key_bound, $group.$key
            ), )+ )+
        ];

        static GROUPS: &[(&str, &str)] = &[
            $( (stringify!($group), concat!($($group_doc, "\n"),+)), )+
        ];
    };
}
pub(crate) use config;
