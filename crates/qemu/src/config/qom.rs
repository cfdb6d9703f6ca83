//! QEMU's objects: what there is, and what each says of itself.

use serde_json::{Value, json};

use super::Reasons;
use super::monitor::{Ask, MonitorError};

/// A property of an object, by name and type; the type of a part is `child<TYPE>`.
pub(super) struct Property {
    pub name: String,
    pub kind: String,
}

impl Property {
    /// The type of the object, if the property is one that belongs to its owner.
    pub fn child(&self) -> Option<&str> {
        self.kind.strip_prefix("child<")?.strip_suffix('>')
    }
}

/// What a property must say.
#[derive(Clone, Copy)]
pub(super) enum Want {
    /// Yes or no.
    Flag(bool),
    /// This number.
    Number(i64),
    /// One of these words.
    Word(&'static [&'static str]),
    /// An empty list.
    Nothing,
    /// Anything: the guest does not see it, or it is looked at elsewhere.
    Any,
}

impl Want {
    /// Whether it says so.
    pub fn fits(self, value: &Value) -> bool {
        match self {
            Want::Flag(wanted) => value.as_bool() == Some(wanted),
            Want::Number(wanted) => value.as_i64() == Some(wanted),
            Want::Word(words) => value.as_str().is_some_and(|value| words.contains(&value)),
            Want::Nothing => value.as_array().is_some_and(Vec::is_empty),
            Want::Any => true,
        }
    }

    /// For a message.
    pub fn in_words(self) -> String {
        match self {
            Want::Flag(wanted) => wanted.to_string(),
            Want::Number(wanted) => wanted.to_string(),
            Want::Word(words) => {
                words.iter().map(|word| format!("{word:?}")).collect::<Vec<_>>().join(" or ")
            }
            Want::Nothing | Want::Any => "empty".to_owned(),
        }
    }
}

/// Properties of one type of object, and what each must say.
pub(super) type Table = &'static [(&'static str, Want)];

/// Asks a monitor about objects.
pub(super) struct Qom<'a> {
    monitor: &'a mut dyn Ask,
}

impl<'a> Qom<'a> {
    pub fn new(monitor: &'a mut dyn Ask) -> Self {
        Self { monitor }
    }

    /// Carries a command out that has no arguments.
    pub fn query(&mut self, command: &str) -> Result<Value, MonitorError> {
        self.monitor
            .ask(command, json!({}))?
            .map_err(|reason| MonitorError::Refused { command: command.to_owned(), reason })
    }

    /// Whether QEMU carries a command out.
    pub fn carries_out(&mut self, command: &str) -> Result<bool, MonitorError> {
        Ok(self.monitor.ask(command, json!({}))?.is_ok())
    }

    /// The properties of an object.
    pub fn list(&mut self, path: &str) -> Result<Vec<Property>, MonitorError> {
        let command = || format!("qom-list {path}");
        let answer = self
            .monitor
            .ask("qom-list", json!({ "path": path }))?
            .map_err(|reason| MonitorError::Refused { command: command(), reason })?;
        let property = |entry: &Value| {
            let word = |key| entry.get(key).and_then(Value::as_str).map(str::to_owned);
            Some(Property { name: word("name")?, kind: word("type")? })
        };
        answer
            .as_array()
            .and_then(|entries| entries.iter().map(property).collect())
            .ok_or_else(|| MonitorError::Answer { command: command() })
    }

    /// What a property says; QEMU's words if it cannot be read.
    pub fn try_get(
        &mut self,
        path: &str,
        name: &str,
    ) -> Result<Result<Value, String>, MonitorError> {
        self.monitor.ask("qom-get", json!({ "path": path, "property": name }))
    }

    /// What a property says that can be read.
    pub fn get(&mut self, path: &str, name: &str) -> Result<Value, MonitorError> {
        let command = || format!("qom-get {path} {name}");
        self.try_get(path, name)?
            .map_err(|reason| MonitorError::Refused { command: command(), reason })
    }

    /// What a property says that is text.
    pub fn text(&mut self, path: &str, name: &str) -> Result<String, MonitorError> {
        match self.get(path, name)? {
            Value::String(text) => Ok(text),
            _ => Err(MonitorError::Answer { command: format!("qom-get {path} {name}") }),
        }
    }

    /// What a property says that is a number.
    pub fn number(&mut self, path: &str, name: &str) -> Result<u64, MonitorError> {
        self.get(path, name)?
            .as_u64()
            .ok_or_else(|| MonitorError::Answer { command: format!("qom-get {path} {name}") })
    }

    /// Holds an object against the table of its type. A property that the table does not have is a
    /// reason too: nobody knows what the guest sees of it.
    pub fn check(
        &mut self,
        subject: &str,
        path: &str,
        table: Table,
        reasons: &mut Reasons,
    ) -> Result<(), MonitorError> {
        let properties = self.list(path)?;
        for (name, want) in table {
            if !matches!(want, Want::Any)
                && !properties.iter().any(|property| property.name == *name)
            {
                reasons.add(subject, format!("it has no property {name}, as in QEMU 7.2"));
            }
        }
        for Property { name, kind } in &properties {
            if is_plumbing(name, kind) {
                continue;
            }
            match table.iter().find(|(known, _)| known == name) {
                None => reasons.add(subject, format!("its property {name} is not known here")),
                Some((_, Want::Any)) => {}
                Some((_, want)) => {
                    let value = self.get(path, name)?;
                    if !want.fits(&value) {
                        let shown = shorten(&value.to_string());
                        let wanted = want.in_words();
                        reasons.add(subject, format!("{name} is {shown}, and has to be {wanted}"));
                    }
                }
            }
        }
        Ok(())
    }
}

/// How an object hangs together with others, and what says the same again.
fn is_plumbing(name: &str, kind: &str) -> bool {
    let everywhere = ["type", "parent_bus", "realized", "hotplugged", "hotpluggable"];
    everywhere.contains(&name)
        || ["child<", "link<irq>", "link<memory-region>"].iter().any(|start| kind.starts_with(start))
        // The text form of another property.
        || kind == "str" && name.starts_with("legacy-")
}

/// What came from outside, not too long for a message.
pub(super) fn shorten(text: &str) -> String {
    text.chars().take(100).collect()
}
