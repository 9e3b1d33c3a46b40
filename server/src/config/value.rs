//! Values as the file, the environment and the flags have them, and the types they are read as.

use ipnet::IpNet;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use toml::de::DeValue;

/// A value of the file.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Value {
    /// A whole number.
    Integer(i128),
    /// A string.
    Text(String),
    /// A list.
    List(Vec<Value>),
    /// Something that no key takes, and what it is called.
    Other(&'static str),
}

impl Value {
    pub(crate) fn of(value: &DeValue<'_>) -> Value {
        match value {
            DeValue::String(text) => Value::Text(text.to_string()),
            DeValue::Integer(integer) => {
                let digits: String = integer.as_str().chars().filter(|c| *c != '_').collect();
                i128::from_str_radix(&digits, integer.radix())
                    .map_or(Value::Other("a number"), Value::Integer)
            }
            DeValue::Array(items) => {
                Value::List(items.iter().map(|item| Value::of(item.get_ref())).collect())
            }
            DeValue::Float(_) => Value::Other("a number with a fraction"),
            DeValue::Boolean(_) => Value::Other("true or false"),
            DeValue::Datetime(_) => Value::Other("a date"),
            DeValue::Table(_) => Value::Other("a table"),
        }
    }

    fn what(&self) -> String {
        match self {
            Value::Integer(_) | Value::Text(_) => self.to_string(),
            Value::List(_) => "a list".into(),
            Value::Other(what) => (*what).into(),
        }
    }
}

impl fmt::Display for Value {
    /// As TOML.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Value::Integer(number) => write!(f, "{number}"),
            Value::Text(text) => write!(f, "{}", toml::Value::String(text.clone())),
            Value::List(items) => {
                f.write_str("[")?;
                for (at, item) in items.iter().enumerate() {
                    let comma = if at == 0 { "" } else { ", " };
                    write!(f, "{comma}{item}")?;
                }
                f.write_str("]")
            }
            Value::Other(what) => f.write_str(what),
        }
    }
}

/// A type that a key may have.
pub trait Setting: Sized {
    /// What is wanted, as it reads after "wants".
    const WANTS: &'static str;
    /// Whether it is a list, so that a flag may be given several times.
    const LIST: bool = false;
    /// From a value of the file.
    fn from_value(value: &Value) -> Result<Self, String>;
    /// From the text of an environment variable or a flag.
    fn from_text(text: &str) -> Result<Self, String>;
    /// As the file would have it.
    fn to_value(&self) -> Value;
}

/// The message for a value that is not of its key's type.
pub(crate) fn unwanted<T: Setting>(got: &Value) -> String {
    format!("wants {}, got {}", T::WANTS, got.what())
}

macro_rules! whole_number {
    ($($type:ty),+) => { $(
        impl Setting for $type {
            const WANTS: &'static str = "a whole number";

            fn from_value(value: &Value) -> Result<Self, String> {
                match value {
                    Value::Integer(number) => {
                        <$type>::try_from(*number).map_err(|_| format!("{number} is out of range"))
                    }
                    other => Err(unwanted::<Self>(other)),
                }
            }

            fn from_text(text: &str) -> Result<Self, String> {
                let digits: String = text.trim().chars().filter(|c| *c != '_').collect();
                match digits.parse::<i128>() {
                    Ok(number) => Self::from_value(&Value::Integer(number)),
                    Err(_) => Err(unwanted::<Self>(&Value::Text(text.into()))),
                }
            }

            fn to_value(&self) -> Value {
                Value::Integer(*self as i128)
            }
        }
    )+ };
}

whole_number!(u32, u64, usize);

impl Setting for PathBuf {
    const WANTS: &'static str = "a path";

    fn from_value(value: &Value) -> Result<Self, String> {
        match value {
            Value::Text(text) if text.is_empty() => Err("the path is empty".into()),
            Value::Text(text) => Ok(PathBuf::from(text)),
            other => Err(unwanted::<Self>(other)),
        }
    }

    fn from_text(text: &str) -> Result<Self, String> {
        Self::from_value(&Value::Text(text.into()))
    }

    fn to_value(&self) -> Value {
        Value::Text(self.display().to_string())
    }
}

impl Setting for Option<PathBuf> {
    const WANTS: &'static str = "a path, or nothing";

    fn from_value(value: &Value) -> Result<Self, String> {
        match value {
            Value::Text(text) => Ok((!text.is_empty()).then(|| PathBuf::from(text))),
            other => Err(unwanted::<Self>(other)),
        }
    }

    fn from_text(text: &str) -> Result<Self, String> {
        Self::from_value(&Value::Text(text.into()))
    }

    fn to_value(&self) -> Value {
        let path = self.as_ref().map(|path| path.display().to_string());
        Value::Text(path.unwrap_or_default())
    }
}

impl Setting for IpNet {
    const WANTS: &'static str = "an address or a range such as `10.0.0.0/8` or `fd00::/8`";

    fn from_value(value: &Value) -> Result<Self, String> {
        match value {
            Value::Text(text) => {
                let text = text.trim();
                let alone = || text.parse::<IpAddr>().map(IpNet::from);
                let range: Result<IpNet, _> = text.parse().or_else(|_| alone());
                range.map_err(|_| unwanted::<Self>(value))
            }
            other => Err(unwanted::<Self>(other)),
        }
    }

    fn from_text(text: &str) -> Result<Self, String> {
        Self::from_value(&Value::Text(text.into()))
    }

    fn to_value(&self) -> Value {
        Value::Text(self.to_string())
    }
}

impl Setting for Vec<IpNet> {
    const WANTS: &'static str = "a list of addresses or ranges such as `10.0.0.0/8`";
    const LIST: bool = true;

    fn from_value(value: &Value) -> Result<Self, String> {
        list_from_value::<_, Self>(value, IpNet::from_value)
    }

    fn from_text(text: &str) -> Result<Self, String> {
        items(text).map(IpNet::from_text).collect()
    }

    fn to_value(&self) -> Value {
        Value::List(self.iter().map(Setting::to_value).collect())
    }
}

impl Setting for SocketAddr {
    const WANTS: &'static str = "an address and port such as `127.0.0.1:8080` or `[::1]:8080`";

    fn from_value(value: &Value) -> Result<Self, String> {
        match value {
            Value::Text(text) => text.trim().parse().map_err(|_| unwanted::<Self>(value)),
            other => Err(unwanted::<Self>(other)),
        }
    }

    fn from_text(text: &str) -> Result<Self, String> {
        Self::from_value(&Value::Text(text.into()))
    }

    fn to_value(&self) -> Value {
        Value::Text(self.to_string())
    }
}

impl Setting for Option<SocketAddr> {
    const WANTS: &'static str = "an address and port such as `127.0.0.1:8081`, or nothing";

    fn from_value(value: &Value) -> Result<Self, String> {
        match value {
            Value::Text(text) if text.trim().is_empty() => Ok(None),
            Value::Text(text) => text
                .trim()
                .parse()
                .map(Some)
                .map_err(|_| unwanted::<Self>(value)),
            other => Err(unwanted::<Self>(other)),
        }
    }

    fn from_text(text: &str) -> Result<Self, String> {
        Self::from_value(&Value::Text(text.into()))
    }

    fn to_value(&self) -> Value {
        Value::Text(self.map(|address| address.to_string()).unwrap_or_default())
    }
}

/// Reads a list item by item; one item alone needs no brackets.
fn list_from_value<T: Setting, L: Setting>(
    value: &Value,
    item: impl Fn(&Value) -> Result<T, String>,
) -> Result<Vec<T>, String> {
    match value {
        Value::List(items) => items.iter().map(item).collect(),
        Value::Text(_) => item(value).map(|one| vec![one]),
        other => Err(unwanted::<L>(other)),
    }
}

/// The items of a comma-separated list.
pub(crate) fn items(text: &str) -> impl Iterator<Item = &str> {
    text.split(',')
        .map(str::trim)
        .filter(|item| !item.is_empty())
}

impl Setting for Vec<SocketAddr> {
    const WANTS: &'static str = "a list of addresses with ports such as `127.0.0.1:8080`";
    const LIST: bool = true;

    fn from_value(value: &Value) -> Result<Self, String> {
        list_from_value::<_, Self>(value, SocketAddr::from_value)
    }

    fn from_text(text: &str) -> Result<Self, String> {
        items(text).map(SocketAddr::from_text).collect()
    }

    fn to_value(&self) -> Value {
        Value::List(self.iter().map(Setting::to_value).collect())
    }
}

impl Setting for String {
    const WANTS: &'static str = "text";

    fn from_value(value: &Value) -> Result<Self, String> {
        match value {
            Value::Text(text) => Ok(text.clone()),
            other => Err(unwanted::<Self>(other)),
        }
    }

    fn from_text(text: &str) -> Result<Self, String> {
        Ok(text.into())
    }

    fn to_value(&self) -> Value {
        Value::Text(self.clone())
    }
}

impl Setting for Vec<String> {
    const WANTS: &'static str = "a list of texts";
    const LIST: bool = true;

    fn from_value(value: &Value) -> Result<Self, String> {
        list_from_value::<_, Self>(value, String::from_value)
    }

    fn from_text(text: &str) -> Result<Self, String> {
        items(text).map(String::from_text).collect()
    }

    fn to_value(&self) -> Value {
        Value::List(self.iter().map(Setting::to_value).collect())
    }
}
