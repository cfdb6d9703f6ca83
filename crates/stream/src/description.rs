//! The JSON description behind the end mark, in QEMU's form. Writer and reader each build it from
//! what they saw, so that it also proves that both mean the same by every field.

use vmstate::{Schema, StructValue};

/// A description that grows with each section.
#[derive(Debug)]
pub(crate) struct Description {
    json: String,
    empty: bool,
}

impl Description {
    /// The description of a machine type without sections. The name's length is all it needs.
    pub(crate) fn new(machine_type: &str) -> Self {
        let json = format!(
            "{{\"configuration\":{{\"vmsd_name\":\"configuration\",\"version\":1,\"fields\":[\
             {{\"name\":\"len\",\"type\":\"uint32\",\"size\":4}},\
             {{\"name\":\"name\",\"type\":\"buffer\",\"size\":{}}}]}},\
             \"page_size\":{},\"devices\":[",
            machine_type.len(),
            crate::PAGE_SIZE
        );
        Self { json, empty: true }
    }

    /// Adds a section.
    pub(crate) fn push(
        &mut self,
        name: &str,
        instance: u32,
        schema: &Schema,
        values: &StructValue,
    ) {
        if !std::mem::replace(&mut self.empty, false) {
            self.json.push(',');
        }
        self.json.push_str(&schema.describe(name, instance, values));
    }

    /// The whole description.
    pub(crate) fn finish(&mut self) -> String {
        let mut json = std::mem::take(&mut self.json);
        json.push_str("]}");
        json
    }
}
