//! `calculate`: arithmetic by the fend engine, which is exact where the
//! numbers allow. It has no random numbers, no files, no network and no
//! clock here. Knows nothing of what the numbers are for.

#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{Semaphore, oneshot};

use super::server::{Failure, Outcome, short};

/// How long the engine may work before it is told to stop.
const LIMIT: Duration = Duration::from_secs(2);

/// How long its caller waits: some steps of the engine do not look at the
/// clock.
const PATIENCE: Duration = Duration::from_secs(3);

/// Calculations at once, those nobody waits for any more among them.
const CONCURRENT: usize = 4;

/// The engine recurses into every operator and parenthesis, with up to
/// 80 kB of stack each: this many characters cannot use up this much.
const CHARACTERS: usize = 400;
const STACK: usize = 128 * 1024 * 1024;

/// Digits of a result that are shown.
const DIGITS: usize = 200;

pub(super) struct Calculator {
    running: Arc<Semaphore>,
}

struct Deadline(Instant);

impl fend_core::Interrupt for Deadline {
    fn should_interrupt(&self) -> bool {
        Instant::now() >= self.0
    }
}

impl Calculator {
    pub(super) fn new() -> Self {
        Self {
            running: Arc::new(Semaphore::new(CONCURRENT)),
        }
    }

    /// The value of an expression: `391`, `2.5`.
    pub(super) async fn calculate(&self, expression: &str) -> Outcome {
        let expression = clean(expression)?;
        // Many at once take turns; one that never ends must not make the
        // others wait for ever.
        let turn = Arc::clone(&self.running).acquire_owned();
        let Ok(Ok(permit)) = tokio::time::timeout(PATIENCE, turn).await else {
            return Err(Failure::new("too many calculations at once, try again"));
        };
        let (sender, receiver) = oneshot::channel();
        let worker = move || {
            // Nobody may be waiting any more; then there is nobody to tell.
            let _ = sender.send(evaluate(&expression));
            drop(permit);
        };
        std::thread::Builder::new()
            .name("calculate".to_owned())
            .stack_size(STACK)
            .spawn(worker)
            .map_err(|error| Failure::new(format_args!("cannot calculate now, {error}")))?;
        match tokio::time::timeout(PATIENCE, receiver).await {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(_)) => Err(Failure::new("the calculation failed")),
            Err(_) => Err(too_long()),
        }
    }
}

fn too_long() -> Failure {
    Failure::new("the calculation takes too long")
}

/// Refuses what is no arithmetic: without `\`, `:`, `=`, `;`, `"` and `@` the
/// engine's language has no functions, variables, texts or dates, and so
/// nothing that recurses without end; its shifts (`<<`) allocate without
/// looking at the clock.
fn clean(expression: &str) -> Result<String, Failure> {
    let question = |c: char| c.is_whitespace() || matches!(c, '=' | '?');
    let expression = expression.trim_start().trim_end_matches(question);
    if expression.is_empty() {
        return Err(Failure::new("expression is empty"));
    }
    if expression.chars().nth(CHARACTERS).is_some() {
        return Err(Failure::new(format_args!(
            "the expression is longer than {CHARACTERS} characters"
        )));
    }
    let allowed = |c: char| {
        (c.is_alphanumeric() && c != 'λ') || c.is_whitespace() || "+-*/^%().,!×÷·−√°_".contains(c)
    };
    if let Some(other) = expression.chars().find(|&c| !allowed(c)) {
        return Err(Failure::new(format_args!(
            "invalid character {} in the expression",
            short(&other.to_string())
        )));
    }
    if !balanced(expression) {
        return Err(Failure::new("the parentheses do not match"));
    }
    Ok(times(expression))
}

/// The engine closes what was left open by itself, which hides mistakes.
fn balanced(expression: &str) -> bool {
    let mut open = 0_usize;
    for c in expression.chars() {
        match c {
            '(' => open += 1,
            ')' if open == 0 => return false,
            ')' => open -= 1,
            _ => {}
        }
    }
    open == 0
}

/// `17 x 23` is a product: an `x` between two numbers is no name. `0x1f`
/// stays the number it is.
fn times(expression: &str) -> String {
    let characters: Vec<char> = expression.chars().collect();
    let number = |found: Option<&char>| {
        found.is_some_and(|c| c.is_ascii_digit() || matches!(c, '(' | ')' | '.' | '-'))
    };
    let product = |at: usize| {
        let (before, after) = (&characters[..at], &characters[at + 1..]);
        let hexadecimal = matches!(before, ['0'] | [.., ' ' | '(' | '+' | '-' | '*' | '/', '0'])
            && after.first().is_some_and(char::is_ascii_hexdigit);
        !hexadecimal
            && number(before.iter().rfind(|c| !c.is_whitespace()))
            && number(after.iter().find(|c| !c.is_whitespace()))
    };
    characters
        .iter()
        .enumerate()
        .map(|(at, &c)| match c {
            'x' | 'X' if product(at) => '*',
            c => c,
        })
        .collect()
}

/// Runs the engine on this thread.
fn evaluate(expression: &str) -> Outcome {
    let mut context = fend_core::Context::new();
    let deadline = Deadline(Instant::now() + LIMIT);
    let result = fend_core::evaluate_with_interrupt(expression, &mut context, &deadline);
    let text = match &result {
        Ok(result) => result.get_main_result(),
        Err(message) if message == "interrupted" => return Err(too_long()),
        Err(message) => return Err(Failure::new(short(message))),
    };
    // The engine marks what is rounded, to ten decimal places.
    let value = text.strip_prefix("approx. ").unwrap_or(text);
    let number = value.starts_with(|c: char| c.is_ascii_digit() || matches!(c, '-' | 'i' | '.'));
    if !number && !matches!(value, "true" | "false") {
        return Err(Failure::new("the expression has no value"));
    }
    Ok(cut(value))
}

/// A result of a million digits helps nobody.
fn cut(value: &str) -> String {
    let digits = value.chars().count();
    if digits <= DIGITS {
        return value.to_owned();
    }
    let head: String = value.chars().take(DIGITS).collect();
    format!("{head}… (cut: {digits} characters in all)")
}
