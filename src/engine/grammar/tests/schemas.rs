//! Random JSON schemas, of the keywords that tools use.

use rand::rngs::SmallRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use serde_json::{Map, Value, json};

/// The schema of some tool's arguments.
pub(super) fn arguments(seed: u64) -> Value {
    let mut random = SmallRng::seed_from_u64(seed);
    let definitions = random.random_range(0..3);
    let mut schemas = Schemas {
        random,
        definitions,
    };
    let mut root = schemas.object(3);
    if definitions > 0 {
        let definitions: Map<String, Value> = (0..definitions)
            .map(|n| (format!("d{n}"), schemas.definition()))
            .collect();
        root["$defs"] = definitions.into();
    }
    root
}

struct Schemas {
    random: SmallRng,
    /// How many there are to refer to.
    definitions: usize,
}

const NAMES: [&str; 8] = ["a", "b", "name", "the key", "ключ", "q\"q", "x\\y", "$ref"];
const TEXTS: [&str; 7] = ["", "C", "two words", "\"", "line\nbreak", "東京", "\\u0041"];

impl Schemas {
    fn chance(&mut self, one_in: u32) -> bool {
        self.random.random_ratio(1, one_in)
    }

    fn text(&mut self) -> &'static str {
        TEXTS.choose(&mut self.random).unwrap()
    }

    /// One that has an end, whatever refers to what: a reference in it is
    /// never required.
    fn definition(&mut self) -> Value {
        if self.chance(2) {
            return self.leaf();
        }
        let mut object = self.object(1);
        object["required"] = json!([]);
        object
    }

    fn schema(&mut self, depth: usize) -> Value {
        if depth == 0 {
            return self.leaf();
        }
        match self.random.random_range(0..10) {
            0 | 1 => self.object(depth - 1),
            2 | 3 => self.array(depth - 1),
            4 => json!({"anyOf": self.several(depth - 1)}),
            5 => json!({"oneOf": [self.string(), self.integer(), {"type": "null"}]}),
            6 if self.definitions > 0 => {
                let n = self.random.random_range(0..self.definitions);
                json!({"$ref": format!("#/$defs/d{n}")})
            }
            _ => self.leaf(),
        }
    }

    fn several(&mut self, depth: usize) -> Vec<Value> {
        let count = self.random.random_range(1..4);
        (0..count).map(|_| self.schema(depth)).collect()
    }

    fn leaf(&mut self) -> Value {
        match self.random.random_range(0..10) {
            0 | 1 => self.string(),
            2 | 3 => self.integer(),
            4 => self.number(),
            5 => json!({"type": "boolean"}),
            6 => json!({"const": self.value(2)}),
            7 => {
                let count = self.random.random_range(1..5);
                json!({"enum": (0..count).map(|_| self.value(1)).collect::<Vec<_>>()})
            }
            8 => json!({"type": ["string", "null"]}),
            _ if self.chance(2) => json!({}),
            _ => json!({"type": "null"}),
        }
    }

    fn string(&mut self) -> Value {
        let mut schema = json!({"type": "string"});
        if self.chance(3) {
            let least = self.random.random_range(0..4);
            schema["minLength"] = least.into();
            schema["maxLength"] = (least + self.random.random_range(0..6)).into();
        } else if self.chance(4) {
            schema["maxLength"] = self.random.random_range(0..40).into();
        } else if self.chance(4) {
            let patterns = [
                "^[a-z]+$",
                "^\\d{3}-\\d{2}$",
                "^(yes|no)$",
                "^[^\"]{1,4}$",
                "^[^\\\\]*$",
            ];
            schema["pattern"] = (*patterns.choose(&mut self.random).unwrap()).into();
        } else if self.chance(6) {
            schema["format"] = "date".into();
        }
        schema
    }

    fn integer(&mut self) -> Value {
        let mut schema = json!({"type": "integer"});
        let least = self.random.random_range(-200..200);
        if self.chance(2) {
            schema["minimum"] = least.into();
        }
        if self.chance(2) {
            schema["maximum"] = (least + self.random.random_range(0..300)).into();
        }
        if self.chance(6) {
            schema["exclusiveMinimum"] = (least - 5).into();
        }
        if schema.get("maximum").is_some() && schema.get("minimum").is_some() && self.chance(3) {
            schema["multipleOf"] = self.random.random_range(1..4).into();
        }
        schema
    }

    fn number(&mut self) -> Value {
        let mut schema = json!({"type": "number"});
        let least = f64::from(self.random.random_range(-20i8..20)) / 4.0;
        if self.chance(2) {
            schema["minimum"] = least.into();
        }
        if self.chance(2) {
            schema["exclusiveMaximum"] = (least + 2.5).into();
        }
        schema
    }

    fn array(&mut self, depth: usize) -> Value {
        let mut schema = json!({"type": "array"});
        if !self.chance(5) {
            schema["items"] = self.schema(depth);
        }
        let least = self.random.random_range(0..3);
        if self.chance(2) {
            schema["minItems"] = least.into();
        }
        if self.chance(2) {
            schema["maxItems"] = (least + self.random.random_range(0..3)).into();
        }
        if self.chance(6) {
            schema["prefixItems"] = self.several(0).into();
        }
        schema
    }

    fn object(&mut self, depth: usize) -> Value {
        let count = self.random.random_range(0..5);
        let names: Vec<&str> = NAMES
            .choose_multiple(&mut self.random, count)
            .copied()
            .collect();
        let mut properties = Map::new();
        for name in &names {
            properties.insert((*name).to_owned(), self.schema(depth));
        }
        let required: Vec<&str> = names.into_iter().filter(|_| self.chance(2)).collect();
        let mut schema = json!({
            "type": "object", "properties": properties, "required": required,
        });
        match self.random.random_range(0..4) {
            0 | 1 => schema["additionalProperties"] = false.into(),
            2 => schema["additionalProperties"] = self.schema(0),
            _ => {}
        }
        schema
    }

    fn value(&mut self, depth: usize) -> Value {
        match self.random.random_range(0..8) {
            0 => Value::Null,
            1 => self.chance(2).into(),
            2 => self.random.random_range(-1000..1000).into(),
            3 => (f64::from(self.random.random_range(-100i8..100)) / 8.0).into(),
            4 if depth > 0 => json!([self.value(depth - 1), self.value(depth - 1)]),
            5 if depth > 0 => json!({(self.text()): self.value(depth - 1)}),
            _ => self.text().into(),
        }
    }
}
