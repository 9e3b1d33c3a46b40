//! The documented default file and the table of `docs/configuration.md`, from the table of keys.

use super::{Bound, Config, GROUPS, Key};

const LINE_WIDTH: usize = 100;

/// A complete configuration file with every key at its default, each with what it means.
pub fn default_file() -> String {
    let defaults = Config::default();
    let mut out = String::from(
        "# CollabBlocks: every key with its default. Environment variables (COLLABBLOCKS_<KEY>, dots as\n\
         # underscores) come before this file, flags before both.\n",
    );
    let mut group = "";
    for key in Key::all() {
        if key.group() != group {
            group = key.group();
            let doc = GROUPS
                .iter()
                .find(|(name, _)| *name == group)
                .map_or("", |(_, doc)| doc);
            out += "\n";
            comment(
                &mut out,
                &doc.split_whitespace().collect::<Vec<_>>().join(" "),
            );
            out += &format!("[{group}]\n");
        }
        out += "\n";
        comment(&mut out, &key.help());
        if let Some(bounds) = bounds(key.bound) {
            comment(&mut out, &format!("Allowed: {bounds}."));
        }
        let name = key.name.rsplit('.').next().unwrap_or(key.name);
        out += &format!("{name} = {}\n", key.value(&defaults));
    }
    out
}

/// The table of all keys in Markdown.
pub fn markdown_table() -> String {
    let defaults = Config::default();
    let mut out =
        String::from("| key | default | allowed | flag, environment variable | what it means |\n");
    out += "|---|---|---|---|---|\n";
    for key in Key::all() {
        let allowed = bounds(key.bound).unwrap_or_else(|| key.wants.into());
        out += &format!(
            "| `{}` | `{}` | {allowed} | `--{}`<br>`{}` | {} |\n",
            key.name,
            key.value(&defaults),
            key.flag(),
            key.env(),
            key.help().replace('|', "\\|"),
        );
    }
    out
}

fn bounds(bound: Bound) -> Option<String> {
    match bound {
        Bound::Any => None,
        Bound::Range(min, max) => Some(format!("{min} to {max}")),
        Bound::Blocks(min, max) => Some(format!("{min} to {max}, in steps of 4096")),
    }
}

fn comment(out: &mut String, text: &str) {
    let mut line = String::from("#");
    for word in text.split(' ') {
        if line.len() + 1 + word.len() > LINE_WIDTH {
            *out += &line;
            *out += "\n";
            line = String::from("#");
        }
        line += " ";
        line += word;
    }
    *out += &line;
    *out += "\n";
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Inputs, Source, load};

    #[test]
    fn the_default_file_is_the_default_configuration() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), default_file()).unwrap();
        let loaded = load(&Inputs {
            file: Some(file.path().into()),
            ..Inputs::default()
        })
        .unwrap();
        assert_eq!(loaded.config, Config::default());
        for (key, source) in Key::all().iter().zip(&loaded.sources) {
            assert!(
                matches!(source, Source::File(..)),
                "{} is not in the file",
                key.name
            );
        }
    }

    #[test]
    fn every_key_is_documented_and_named_with_its_unit_last() {
        let units = [
            "_ms",
            "_us",
            "_s",
            "_bytes",
            "_max",
            "_bytes_max",
            "_sessions",
        ];
        for key in Key::all() {
            assert!(
                key.help().len() > 15 && key.help().ends_with('.'),
                "{}: {:?}",
                key.name,
                key.help()
            );
            if matches!(key.bound, Bound::Range(..) | Bound::Blocks(..)) {
                assert!(
                    units.iter().any(|unit| key.name.ends_with(unit)),
                    "{} has no unit",
                    key.name
                );
            }
        }
    }

    /// Run with COLLABBLOCKS_BLESS=1 to write the document anew.
    #[test]
    fn the_document_equals_the_code() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/configuration.md");
        let text = std::fs::read_to_string(path).unwrap();
        let mut fresh = text.clone();
        for (name, content) in [
            ("keys", markdown_table()),
            ("default file", format!("```toml\n{}```\n", default_file())),
        ] {
            let begin = format!("<!-- begin: {name} (generated) -->\n");
            let end = format!("<!-- end: {name} -->");
            let from = fresh.find(&begin).expect("the document has its marks") + begin.len();
            let to = from
                + fresh[from..]
                    .find(&end)
                    .expect("the document has its marks");
            fresh.replace_range(from..to, &format!("\n{content}\n"));
        }
        if std::env::var_os("COLLABBLOCKS_BLESS").is_some() {
            std::fs::write(path, &fresh).unwrap();
        } else {
            assert!(
                text == fresh,
                "docs/configuration.md is stale: run the tests once with COLLABBLOCKS_BLESS=1"
            );
        }
    }
}
