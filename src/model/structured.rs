//! One way in and one way out for JSON: through [`Value`]. A type then has one reader and one writer in the program, not one
//! per source, which would be a third of its size.

use serde::de::value::{MapDeserializer, SeqDeserializer};
use serde::de::{
    DeserializeOwned, DeserializeSeed, Deserializer, EnumAccess, Error as _, Expected, IntoDeserializer, Unexpected,
    VariantAccess, Visitor,
};
use serde::{Serialize, forward_to_deserialize_any};
use serde_json::{Error, Result, Value};

/// Reads JSON.
///
/// # Errors
/// It is no JSON, or no such thing.
pub fn from_json<T: DeserializeOwned>(text: &[u8]) -> Result<T> {
    from_value(&serde_json::from_slice(text)?)
}

/// Reads what was JSON.
///
/// # Errors
/// It is no such thing.
pub fn from_value<T: DeserializeOwned>(value: &Value) -> Result<T> {
    T::deserialize(Reader(value))
}

/// Writes JSON for people and programs, with a newline at the end.
///
/// # Errors
/// A map whose keys are no text.
pub fn to_json(value: &impl Serialize) -> Result<String> {
    Ok(serde_json::to_string_pretty(&serde_json::to_value(value)?)? + "\n")
}

/// Writes JSON in one line, with a newline at the end.
///
/// # Errors
/// A map whose keys are no text.
pub fn to_json_line(value: &impl Serialize) -> Result<String> {
    Ok(serde_json::to_value(value)?.to_string() + "\n")
}

/// A struct is an object and nothing else: serde_json's own reader takes an array for one too, and so has code for both
/// for every struct of the program.
struct Reader<'de>(&'de Value);

impl<'de> Reader<'de> {
    fn object<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        match self.0 {
            Value::Object(map) => {
                visitor.visit_map(MapDeserializer::new(map.iter().map(|(key, value)| (Key(key), Reader(value)))))
            }
            other => Err(wrong(other, &visitor)),
        }
    }

    fn array<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        match self.0 {
            Value::Array(items) => visitor.visit_seq(SeqDeserializer::new(items.iter().map(Reader))),
            other => Err(wrong(other, &visitor)),
        }
    }
}

impl<'de> IntoDeserializer<'de, Error> for Reader<'de> {
    type Deserializer = Self;

    fn into_deserializer(self) -> Self {
        self
    }
}

/// Values without parts are read as serde_json reads them.
macro_rules! simple {
    ($($method:ident)*) => {
        $(fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
            self.0.$method(visitor)
        })*
    };
}

impl<'de> Deserializer<'de> for Reader<'de> {
    type Error = Error;

    simple! {
        deserialize_any deserialize_bool deserialize_u8 deserialize_u16 deserialize_u32 deserialize_u64 deserialize_i8
        deserialize_i16 deserialize_i32 deserialize_i64 deserialize_f32 deserialize_f64 deserialize_str
        deserialize_string deserialize_identifier deserialize_ignored_any deserialize_unit
    }
    forward_to_deserialize_any! { i128 u128 char bytes byte_buf unit_struct }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        if self.0.is_null() { visitor.visit_none() } else { visitor.visit_some(self) }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, _: &'static str, visitor: V) -> Result<V::Value> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        self.array(visitor)
    }

    fn deserialize_tuple<V: Visitor<'de>>(self, _: usize, visitor: V) -> Result<V::Value> {
        self.array(visitor)
    }

    fn deserialize_tuple_struct<V: Visitor<'de>>(self, _: &'static str, _: usize, visitor: V) -> Result<V::Value> {
        self.array(visitor)
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        self.object(visitor)
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value> {
        self.object(visitor)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value> {
        match self.0 {
            Value::String(name) => visitor.visit_enum(Variant { name, value: &Value::Null }),
            Value::Object(map) if map.len() == 1 => match map.iter().next() {
                Some((name, value)) => visitor.visit_enum(Variant { name, value }),
                None => Err(wrong(self.0, &visitor)),
            },
            other => Err(wrong(other, &visitor)),
        }
    }
}

/// The key of an object: a text, or what is written as one.
struct Key<'de>(&'de str);

impl<'de> IntoDeserializer<'de, Error> for Key<'de> {
    type Deserializer = Self;

    fn into_deserializer(self) -> Self {
        self
    }
}

impl<'de> Deserializer<'de> for Key<'de> {
    type Error = Error;

    forward_to_deserialize_any! {
        bool u8 u16 u32 i8 i16 i32 i64 f32 f64 i128 u128 char str string bytes byte_buf unit unit_struct option
        newtype_struct seq tuple tuple_struct map struct enum identifier ignored_any
    }

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        visitor.visit_borrowed_str(self.0)
    }

    fn deserialize_u64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        match self.0.parse() {
            Ok(number) => visitor.visit_u64(number),
            Err(_) => Err(Error::invalid_type(Unexpected::Str(self.0), &visitor)),
        }
    }
}

/// `"name"`, or `{"name": value}`.
struct Variant<'de> {
    name: &'de str,
    value: &'de Value,
}

impl<'de> EnumAccess<'de> for Variant<'de> {
    type Error = Error;
    type Variant = Reader<'de>;

    fn variant_seed<S: DeserializeSeed<'de>>(self, seed: S) -> Result<(S::Value, Reader<'de>)> {
        Ok((seed.deserialize(Key(self.name))?, Reader(self.value)))
    }
}

impl<'de> VariantAccess<'de> for Reader<'de> {
    type Error = Error;

    fn unit_variant(self) -> Result<()> {
        if self.0.is_null() { Ok(()) } else { Err(wrong(self.0, &"nothing")) }
    }

    fn newtype_variant_seed<S: DeserializeSeed<'de>>(self, seed: S) -> Result<S::Value> {
        seed.deserialize(self)
    }

    fn tuple_variant<V: Visitor<'de>>(self, _: usize, visitor: V) -> Result<V::Value> {
        self.array(visitor)
    }

    fn struct_variant<V: Visitor<'de>>(self, _: &'static [&'static str], visitor: V) -> Result<V::Value> {
        self.object(visitor)
    }
}

fn wrong(value: &Value, expected: &dyn Expected) -> Error {
    let found = match value {
        Value::Null => Unexpected::Unit,
        Value::Bool(value) => Unexpected::Bool(*value),
        Value::Number(_) => Unexpected::Other("number"),
        Value::String(text) => Unexpected::Str(text),
        Value::Array(_) => Unexpected::Seq,
        Value::Object(_) => Unexpected::Map,
    };
    Error::invalid_type(found, expected)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde::Deserialize;

    use super::*;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Whole {
        number: Option<u8>,
        pair: (i64, f64),
        map: BTreeMap<String, Vec<Kind>>,
        #[serde(default)]
        places: BTreeMap<usize, bool>,
        #[serde(default)]
        any: Value,
    }

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    #[serde(rename_all = "kebab-case")]
    enum Kind {
        Plain,
        One(String),
        Two(u8, bool),
        Parts { left: text::Text },
    }

    mod text {
        #[derive(Debug, PartialEq, serde::Serialize, serde::Deserialize)]
        pub struct Text(pub String);
    }

    #[test]
    fn what_is_written_is_read_as_serde_json_reads_it() {
        let text = br#"{"number": 7, "pair": [-1, 2.5], "map": {"a": ["plain", {"one": "x"}, {"two": [1, true]},
            {"parts": {"left": "y"}}]}, "places": {"10": true}, "any": {"b": [null, 1]}}"#;
        let own: Whole = from_json(text).unwrap();
        assert_eq!(own, serde_json::from_slice(text).unwrap());
        assert_eq!(from_json::<Whole>(to_json(&own).unwrap().as_bytes()).unwrap(), own);
        let bare: Whole = from_json(br#"{"pair": [0, 0], "map": {}, "more": 1}"#).unwrap();
        assert_eq!((bare.number, bare.any), (None, Value::Null));
    }

    #[test]
    fn what_is_something_else_is_told() {
        for text in [
            "[1]",
            "7",
            r#"{"number": 300, "pair": [0, 0], "map": {}}"#,
            r#"{"pair": [0], "map": {}}"#,
            r#"{"pair": [0, 0], "map": {"a": [{"one": 1, "two": 2}]}}"#,
            r#"{"pair": [0, 0], "map": {"a": ["one"]}}"#,
            r#"{"pair": [0, 0], "map": {"a": [{"plain": 1}]}}"#,
            r#"{"pair": [0, 0], "map": {"a": ["none"]}}"#,
            r#"{"pair": [0, 0], "map": {}, "places": {"x": true}}"#,
        ] {
            assert!(from_json::<Whole>(text.as_bytes()).is_err(), "{text}");
        }
    }
}
