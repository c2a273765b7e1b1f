//! How calls are written, as data: what opens them, what stands before and
//! behind their arguments, and in what form the arguments are.
//!
//! Knows nothing of tools, tokens and grammars. The formats of the model
//! families are in `families`.

/// How calls are written: an opener, then for each call a head with the tool's
/// name, the arguments and an end, with a separator between calls and a closer
/// behind the last.
///
/// A text may be empty where a format has no such thing. Whitespace may stand
/// before each of them, but for openers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CallFormat {
    /// The texts that open a block of calls, wherever they stand in free text.
    pub(super) openers: Vec<String>,
    /// How many pieces of the head open a block without an opener, where
    /// nothing but whitespace and reasoning precede them; 0 if none do.
    pub(super) at_start: usize,
    /// Text in which a call is not a call.
    pub(super) quiet: Quiet,
    /// What stands before the arguments.
    pub(super) head: Vec<Piece>,
    /// The piece with which the head of a further call begins.
    pub(super) again: usize,
    /// The form of the arguments.
    pub(super) form: Form,
    /// The text that ends a call.
    pub(super) end: String,
    /// The text that leads from a call to the next one.
    pub(super) separator: String,
    /// The text that closes a block.
    pub(super) closer: String,
    /// What follows a block.
    pub(super) after: After,
}

/// Text in which a call is not a call, such as the model's reasoning.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Quiet {
    /// The texts any of which begins it.
    pub(super) opens: Vec<String>,
    /// The texts any of which ends it.
    pub(super) closes: Vec<String>,
}

/// A piece of what stands before the arguments.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Piece {
    /// This text, before which there may be whitespace.
    Text(String),
    /// One of these texts, right behind what precedes it.
    OneOf(Vec<String>),
    /// The tool's name, right behind what precedes it.
    Name,
    /// The tool's name, before which there may be whitespace.
    SpacedName,
    /// The tool's name as a JSON string, before which there may be whitespace.
    QuotedName,
    /// A whole number, right behind what precedes it.
    Number,
    /// So many ASCII letters and digits, right behind what precedes them.
    Id(u8),
}

/// How arguments are written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Form {
    /// A JSON object.
    Json {
        /// It is a member of an object that ends behind it.
        member: bool,
        /// A member `"id"` with nine letters and digits may stand behind it.
        id: bool,
    },
    /// Each argument between tags.
    Tagged(Tags),
    /// `key=literal` with Python's literals, and the bracket that ends them.
    Python,
    /// `key:value`, with texts between marks instead of quotes, and the brace
    /// that ends them.
    Marked {
        /// What stands before and behind a text.
        mark: String,
    },
}

/// The tags around an argument: those of its key, then those of its value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Tags {
    pub(super) key_opens: String,
    pub(super) key_closes: String,
    /// Where a value that is JSON, and no text, has another tag than
    /// `key_closes`: that tag. Which it is then tells how a value is written.
    pub(super) json_key_closes: Option<String>,
    /// Empty where the value follows the key's tag.
    pub(super) value_opens: String,
    pub(super) value_closes: String,
    /// Values stand on lines of their own.
    pub(super) lines: bool,
}

/// What follows a block of calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum After {
    /// The closer, then free text.
    Text,
    /// The closer, then the end of the turn.
    End,
    /// The end of the turn: the closer need not be there.
    Turn,
}

impl CallFormat {
    /// Whether a call can be opened and closed.
    pub(super) fn is_complete(&self) -> bool {
        let opens = self.at_start > 0 || !self.openers.is_empty();
        let empty = self.openers.iter().any(String::is_empty);
        let closes = self.after == After::Turn || !(self.end.is_empty() && self.closer.is_empty());
        opens && !empty && closes
    }

    /// Whether `text` is a part of what structures a turn.
    pub(super) fn has_marker(&self, text: &str) -> bool {
        let tags = match &self.form {
            Form::Json { .. } | Form::Python => Vec::new(),
            Form::Marked { mark } => vec![mark],
            Form::Tagged(tags) => [
                &tags.key_opens,
                &tags.key_closes,
                &tags.value_opens,
                &tags.value_closes,
            ]
            .into_iter()
            .chain(&tags.json_key_closes)
            .collect(),
        };
        let head = self.head.iter().flat_map(|piece| match piece {
            Piece::Text(text) => std::slice::from_ref(text),
            Piece::OneOf(texts) => texts.as_slice(),
            Piece::Name | Piece::SpacedName | Piece::QuotedName => &[],
            Piece::Number | Piece::Id(_) => &[],
        });
        let texts = [&self.openers, &self.quiet.opens, &self.quiet.closes];
        texts
            .into_iter()
            .flatten()
            .chain(head)
            .chain(tags)
            .chain([&self.end, &self.separator, &self.closer])
            .any(|marker| !text.is_empty() && marker.contains(text))
    }
}
