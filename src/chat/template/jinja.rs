//! The template engine, set up as transformers sets up jinja2:
//! `ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)` with
//! loop controls, the `generation` tag, `tojson`, `raise_exception` and
//! `strftime_now`.
//!
//! Knows nothing of messages. minijinja has no hook for operators, so four
//! things remain as it does them (`tests/real.rs` lists the templates they
//! matter to):
//! - `%` between a text and its values fails (the filter and the method
//!   `format` work);
//! - `~` writes floats beyond 1e16 without an exponent;
//! - a text marked `safe` does not escape what is added to it;
//! - a loop over `none` is empty rather than an error.

use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Kwargs, Rest, ValueKind, ValueOrKwargs, from_args};
use minijinja::{Environment, Error, ErrorKind, UndefinedBehavior, Value};

use super::methods;
use super::python::{self, Dumps};

/// An engine with no template in it.
///
/// # Errors
/// Never in practice: the syntax it is set up with is constant.
pub(super) fn environment() -> Result<Environment<'static>, Error> {
    let mut env = Environment::new();
    env.set_debug(false);
    env.set_syntax(
        SyntaxConfig::builder()
            .trim_blocks(true)
            .lstrip_blocks(true)
            .build()?,
    );
    env.set_undefined_behavior(UndefinedBehavior::Lenient);
    env.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
    env.set_unknown_method_callback(methods::call);
    env.set_formatter(|out, _, value| {
        match value.as_str() {
            Some(text) => out.write_str(text),
            None => out.write_str(&python::str(value)?),
        }
        .map_err(Error::from)
    });
    env.add_filter("tojson", tojson);
    env.add_filter("string", |value: &Value| python::str(value));
    env.add_filter("length", length);
    env.add_filter("count", length);
    env.add_filter("indent", indent);
    env.add_filter("trim", trim);
    env.add_filter("int", int);
    env.add_filter("float", float);
    env.add_test("sequence", is_sequence);
    env.add_test("iterable", |value: &Value| {
        is_sequence(value) || value.kind() == ValueKind::Iterable
    });
    env.add_test("callable", |value: &Value| {
        value.kind() == ValueKind::Plain && value.as_object().is_some()
    });
    env.add_function(
        "raise_exception",
        |message: String| -> Result<Value, Error> {
            Err(Error::new(ErrorKind::InvalidOperation, message))
        },
    );
    env.add_function("strftime_now", strftime_now);
    Ok(env)
}

/// The text of a template with the tags of transformers' own `generation`
/// extension, which marks what a model is trained on, replaced by tags of the
/// same scope that write nothing.
pub(super) fn without_generation_tags(source: &str) -> String {
    let mut out = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(start) = rest.find("{%") {
        let (before, tag) = rest.split_at(start);
        out.push_str(before);
        // A tag ends at the first `%}`; one with that text inside a string is
        // not one of ours, and is copied in two pieces.
        let end = tag.find("%}").map_or(tag.len(), |end| end + 2);
        let (tag, after) = tag.split_at(end);
        let name = tag
            .trim_start_matches("{%")
            .trim_end_matches("%}")
            .trim_matches(['-', '+'])
            .trim();
        match name {
            "generation" => out.push_str(&tag.replacen("generation", "with", 1)),
            "endgeneration" => out.push_str(&tag.replacen("endgeneration", "endwith", 1)),
            _ => out.push_str(tag),
        }
        rest = after;
    }
    out.push_str(rest);
    out
}

/// transformers' `tojson`: `json.dumps` without ASCII escapes, and without
/// jinja2's escapes for HTML. The arguments are in its order.
fn tojson(value: &Value, args: Rest<ValueOrKwargs>) -> Result<String, Error> {
    let args = args.into_values();
    let (positional, kwargs): (&[Value], Kwargs) = from_args(&args)?;
    let argument = |index: usize, name: &str| -> Result<Option<Value>, Error> {
        let given = match positional.get(index) {
            Some(value) => Some(value.clone()),
            None => kwargs.get::<Option<Value>>(name)?,
        };
        Ok(given.filter(|value| !value.is_none() && !value.is_undefined()))
    };
    let is_set = |flag: Option<Value>| flag.is_some_and(|flag| flag.is_true());
    let ensure_ascii = is_set(argument(0, "ensure_ascii")?);
    let indent = argument(1, "indent")?.map(|indent| indentation(&indent));
    let separators = argument(2, "separators")?;
    let sort_keys = is_set(argument(3, "sort_keys")?);
    kwargs.assert_all_used()?;

    let mut dumps = Dumps {
        indent: indent.transpose()?,
        ensure_ascii,
        sort_keys,
        ..Dumps::default()
    };
    if dumps.indent.is_some() {
        dumps.item_separator = ",".to_owned();
    }
    if let Some(separators) = separators {
        dumps.item_separator = python::str(&separators.get_item_by_index(0)?)?;
        dumps.key_separator = python::str(&separators.get_item_by_index(1)?)?;
    }
    dumps.dump(value)
}

/// One level of `json.dumps`' `indent`: a number of spaces, or a text.
fn indentation(indent: &Value) -> Result<String, Error> {
    match indent.as_str() {
        Some(text) => Ok(text.to_owned()),
        None => {
            let spaces = i64::try_from(indent.clone())?;
            Ok(" ".repeat(usize::try_from(spaces).unwrap_or(0)))
        }
    }
}

/// jinja2's `indent`: unlike minijinja's it keeps a newline at the end.
fn indent(
    text: String,
    width: Option<Value>,
    first: Option<bool>,
    blank: Option<bool>,
    kwargs: Kwargs,
) -> Result<String, Error> {
    let width = match width {
        Some(width) => Some(width),
        None => kwargs.get::<Option<Value>>("width")?,
    };
    let flag = |given: Option<bool>, name: &str| -> Result<bool, Error> {
        Ok(match given {
            Some(flag) => flag,
            None => kwargs.get::<Option<bool>>(name)?.unwrap_or(false),
        })
    };
    let (first, blank) = (flag(first, "first")?, flag(blank, "blank")?);
    kwargs.assert_all_used()?;
    let indentation = width.map_or(Ok(" ".repeat(4)), |width| indentation(&width))?;

    let text = text + "\n";
    let mut out = String::with_capacity(text.len());
    for (index, line) in methods::split_lines(&text, false).into_iter().enumerate() {
        if index > 0 {
            out.push('\n');
        }
        let wanted = if index == 0 {
            first
        } else {
            blank || !line.is_empty()
        };
        if wanted {
            out.push_str(&indentation);
        }
        out.push_str(line);
    }
    Ok(out)
}

/// jinja2's `trim`, which is Python's `strip`.
fn trim(text: String, characters: Option<String>, kwargs: Kwargs) -> Result<String, Error> {
    let characters = match characters {
        Some(characters) => Some(characters),
        None => kwargs.get::<Option<String>>("chars")?,
    };
    kwargs.assert_all_used()?;
    let drop = |character| methods::strips(characters.as_deref(), character);
    Ok(text.trim_matches(drop).to_owned())
}

/// Python's `len`, where an undefined value has no items.
fn length(value: &Value) -> Result<usize, Error> {
    match value.len() {
        Some(length) => Ok(length),
        None if value.is_undefined() => Ok(0),
        None if value.kind() == ValueKind::Iterable => Ok(value.try_iter()?.count()),
        None => Err(Error::new(
            ErrorKind::InvalidOperation,
            format!("a value of type {} has no length", value.kind()),
        )),
    }
}

/// jinja2's `int`: what is no number becomes the default, not an error.
fn int(value: &Value, default: Option<Value>, kwargs: Kwargs) -> Result<Value, Error> {
    let default = default_argument(default, &kwargs)?.unwrap_or_else(|| Value::from(0));
    if value.is_integer() {
        return Ok(value.clone());
    }
    let text = value.as_str().map(|text| text.trim().replace('_', ""));
    if let Some(number) = text.and_then(|text| text.parse::<i128>().ok()) {
        return Ok(Value::from(number));
    }
    Ok(match number(value) {
        // Beyond an i128 there is nothing minijinja could hold.
        Some(number) if number.is_finite() => Value::from(number.trunc() as i128),
        _ => default,
    })
}

/// jinja2's `float`, likewise.
fn float(value: &Value, default: Option<Value>, kwargs: Kwargs) -> Result<Value, Error> {
    let default = default_argument(default, &kwargs)?.unwrap_or_else(|| Value::from(0.0));
    Ok(number(value).map_or(default, Value::from))
}

fn default_argument(given: Option<Value>, kwargs: &Kwargs) -> Result<Option<Value>, Error> {
    let given = match given {
        Some(value) => Some(value),
        None => kwargs.get::<Option<Value>>("default")?,
    };
    kwargs.assert_all_used()?;
    Ok(given)
}

/// Python's `float(value)`.
fn number(value: &Value) -> Option<f64> {
    match value.kind() {
        ValueKind::String => value.as_str()?.trim().parse().ok(),
        ValueKind::Bool => Some(if value.is_true() { 1.0 } else { 0.0 }),
        ValueKind::Number => f64::try_from(value.clone()).ok(),
        _ => None,
    }
}

/// What has a length and items in Python: texts and dicts too.
fn is_sequence(value: &Value) -> bool {
    matches!(
        value.kind(),
        ValueKind::Seq
            | ValueKind::Iterable
            | ValueKind::Map
            | ValueKind::String
            | ValueKind::Undefined
    )
}

/// `datetime.now().strftime(format)`: the local time.
fn strftime_now(format: String) -> Result<String, Error> {
    jiff::fmt::strtime::format(&format, &jiff::Zoned::now()).map_err(|error| {
        Error::new(
            ErrorKind::InvalidOperation,
            format!("strftime_now cannot write {format:?}: {error}"),
        )
    })
}
