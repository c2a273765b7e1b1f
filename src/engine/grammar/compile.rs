//! What a call to one of some tools may look like: the tools' schemas become
//! grammars, each as strict as it can be.
//!
//! Knows nothing of generations.

use std::collections::HashSet;
use std::sync::Arc;

use serde_json::{Value, json};

use super::arguments::ArgumentsGrammar;
use super::free_text::Markers;
use super::head::HeadGrammar;
use super::outline::Ending;
use super::schema::{Unusable, objects};
use super::vocabulary::Vocabulary;
use super::{CallFormat, GrammarError};

/// A tool as the grammar needs it.
#[derive(Debug, Clone, PartialEq)]
pub struct ToolSchema {
    /// The name the model calls it by.
    pub name: String,
    /// The JSON schema of its arguments; null if it has none.
    pub parameters: Value,
}

/// A tool whose schema does not bind its arguments as it says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fallback {
    /// The tool's name.
    pub tool: String,
    /// How much is lost.
    pub loss: Loss,
    /// Why, in a line.
    pub reason: String,
}

/// How much of a schema does not bind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Loss {
    /// The keywords named in the reason; all others bind.
    Keywords,
    /// All of it: the arguments are any, of the format's form.
    Schema,
}

/// What a call to one of some tools may look like. Cheap to clone.
#[derive(Clone)]
pub struct CallGrammar {
    inner: Arc<Inner>,
}

struct Inner {
    vocabulary: Vocabulary,
    markers: Markers,
    head: HeadGrammar,
    /// The texts that may come behind a call besides the end of the turn, and
    /// what each of them means.
    behind: (Vec<Box<[u8]>>, Vec<Ending>),
    /// In the tools' order.
    arguments: Vec<ArgumentsGrammar>,
}

impl std::fmt::Debug for CallGrammar {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CallGrammar").finish_non_exhaustive()
    }
}

impl CallGrammar {
    /// Compiles the tools' schemas; those that cannot bind as they are come
    /// back with the reason.
    ///
    /// # Errors
    /// If there are no tools, or two of one name.
    pub fn compile(
        vocabulary: &Vocabulary,
        tools: &[ToolSchema],
    ) -> Result<(Self, Vec<Fallback>), GrammarError> {
        if tools.is_empty() {
            return Err(GrammarError::NoTools);
        }
        let mut names = HashSet::new();
        if let Some(again) = tools.iter().find(|tool| !names.insert(tool.name.as_str())) {
            return Err(GrammarError::DuplicateTool(again.name.clone()));
        }
        let mut fallbacks = Vec::new();
        let mut arguments = Vec::with_capacity(tools.len());
        for tool in tools {
            let (grammar, lost) = compile(vocabulary, &tool.parameters)?;
            arguments.push(grammar);
            fallbacks.extend(lost.map(|(loss, reason)| Fallback {
                tool: tool.name.clone(),
                loss,
                reason,
            }));
        }
        let format = vocabulary.format();
        let inner = Inner {
            vocabulary: vocabulary.clone(),
            markers: Markers::new(format),
            head: HeadGrammar::new(format, tools.iter().map(|tool| tool.name.as_str())),
            behind: behind(format),
            arguments,
        };
        let inner = Arc::new(inner);
        Ok((Self { inner }, fallbacks))
    }

    pub(super) fn vocabulary(&self) -> &Vocabulary {
        &self.inner.vocabulary
    }

    pub(super) fn markers(&self) -> &Markers {
        &self.inner.markers
    }

    pub(super) fn head(&self) -> &HeadGrammar {
        &self.inner.head
    }

    pub(super) fn behind(&self) -> (&[Box<[u8]>], &[Ending]) {
        let (texts, endings) = &self.inner.behind;
        (texts, endings)
    }

    /// Whether `token` ends a turn.
    pub(super) fn ends(&self, token: u32) -> bool {
        self.inner.vocabulary.ends().contains(&token)
    }

    /// Whether any token ends a turn.
    pub(super) fn has_ends(&self) -> bool {
        !self.inner.vocabulary.ends().is_empty()
    }

    pub(super) fn arguments(&self, tool: usize) -> &ArgumentsGrammar {
        &self.inner.arguments[tool]
    }
}

fn behind(format: &CallFormat) -> (Vec<Box<[u8]>>, Vec<Ending>) {
    let texts = [
        (&format.separator, Ending::Another),
        (&format.closer, Ending::Over),
    ];
    let texts = texts.into_iter().filter(|(text, _)| !text.is_empty());
    texts
        .map(|(text, ending)| (text.as_bytes().into(), ending))
        .unzip()
}

/// The strictest grammar that can be had of a schema: as it is; without the
/// keywords llguidance does not know; any object.
fn compile(
    vocabulary: &Vocabulary,
    schema: &Value,
) -> Result<(ArgumentsGrammar, Option<(Loss, String)>), GrammarError> {
    let strict = objects(schema).and_then(|schema| {
        ArgumentsGrammar::compile(vocabulary, schema.clone(), false).map_err(|reason| Unusable {
            reason,
            schema: Some(schema),
        })
    });
    let unusable = match strict {
        Ok((grammar, _)) => return Ok((grammar, None)),
        Err(unusable) => unusable,
    };
    if let Some(schema) = unusable.schema
        && let Ok((grammar, warnings)) = ArgumentsGrammar::compile(vocabulary, schema, true)
    {
        let reason = if warnings.is_empty() {
            unusable.reason
        } else {
            warnings.join("; ")
        };
        return Ok((grammar, Some((Loss::Keywords, reason))));
    }
    let (grammar, _) = ArgumentsGrammar::compile(vocabulary, json!({"type": "object"}), false)
        .map_err(GrammarError::Compile)?;
    Ok((grammar, Some((Loss::Schema, unusable.reason))))
}
