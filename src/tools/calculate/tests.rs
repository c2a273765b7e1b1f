#![allow(clippy::unwrap_used)]

use super::*;

async fn value(expression: &str) -> String {
    Calculator::new().calculate(expression).await.unwrap()
}

async fn error(expression: &str) -> String {
    let outcome = Calculator::new().calculate(expression).await;
    outcome.unwrap_err().message().to_owned()
}

#[tokio::test]
async fn arithmetic() {
    for (expression, expected) in [
        ("17 * 23", "391"),
        ("2^10", "1024"),
        ("2**10", "1024"),
        ("sqrt(16)", "4"),
        ("15% of 80", "12"),
        ("15/100*240", "36"),
        ("10/4", "2.5"),
        ("99/12", "8.25"),
        ("0.1+0.2", "0.3"),
        ("1/3", "0.3333333333"),
        ("sqrt(2)", "1.4142135624"),
        ("10 % 3", "1"),
        ("-5 + 2", "-3"),
        ("-5^2", "-25"),
        ("1,000 * 3", "3000"),
        ("12*(3+4)", "84"),
        ("17 × 23", "391"),
        ("17 x 23", "391"),
        ("10 x 5", "50"),
        ("2x3", "6"),
        ("(1+1)x(2+2)", "8"),
        ("0x1f + 1", "0x20"),
        ("10 ÷ 4 =", "2.5"),
        ("2+2 = ?", "4"),
        ("5!", "120"),
        ("2 pi", "6.2831853072"),
        ("sin(30°)", "0.5"),
        ("5 km to miles", "3.1068559612 miles"),
        (
            "12345678901234567890 * 98765432109876543210",
            "1219326311370217952237463801111263526900",
        ),
    ] {
        assert_eq!(value(expression).await, expected, "{expression}");
    }
}

#[tokio::test]
async fn what_cannot_be_calculated() {
    for (expression, expected) in [
        ("", "expression is empty"),
        (" = ? ", "expression is empty"),
        ("1/0", "division by zero"),
        ("2 +", "unexpected input found"),
        ("(1+2", "the parentheses do not match"),
        ("1+2)", "the parentheses do not match"),
        (")(", "the parentheses do not match"),
        ("hello", "unknown identifier 'hello'"),
        ("()", "the expression has no value"),
        ("not", "the expression has no value"),
        ("roll d6", "random numbers are not available"),
        ("5 USD to EUR", "exchange rates are not available"),
        ("x = 5", "invalid character = in the expression"),
        (
            r"(\x. x x)(\x. x x)",
            r"invalid character \ in the expression",
        ),
        ("(λx. x x) 1", "invalid character λ in the expression"),
        ("f: f f", "invalid character : in the expression"),
        (
            "1 << 1000000000000",
            "invalid character < in the expression",
        ),
        ("@2020-01-01", "invalid character @ in the expression"),
        ("\"text\"", "invalid character \" in the expression"),
        ("1\0", "invalid character   in the expression"),
    ] {
        assert_eq!(error(expression).await, expected, "{expression:?}");
    }
}

#[tokio::test]
async fn endless_work_is_stopped() {
    for expression in ["9^9^9^9", "100000000!", "1e-1000000"] {
        assert_eq!(error(expression).await, "the calculation takes too long");
    }
}

#[tokio::test]
async fn calculations_nobody_waits_for_are_bounded() {
    let calculator = Calculator::new();
    // The first ones end when they are stopped, and so do those that then get
    // a turn; the last one has waited too long by then.
    let all =
        futures::future::join_all((0..2 * CONCURRENT + 1).map(|_| calculator.calculate("9^9^9^9")));
    let messages: Vec<String> = all
        .await
        .into_iter()
        .map(|outcome| outcome.unwrap_err().message().to_owned())
        .collect();
    let refused = "too many calculations at once, try again";
    assert_eq!(messages.iter().filter(|it| *it == refused).count(), 1);
    // The places are free again.
    assert_eq!(calculator.calculate("1+1").await.unwrap(), "2");
}

#[tokio::test]
async fn the_deepest_nesting_fits_the_stack() {
    let nested = |open: &str, close: &str| {
        let depth = CHARACTERS / (open.len() + close.len()) - 1;
        format!("{}1{}", open.repeat(depth), close.repeat(depth))
    };
    // An overflow would end the process.
    for (expression, expected) in [
        (nested("(", ")"), "1"),
        (nested("-(", ")"), "1"),
        (nested("sqrt(", ")"), "1"),
        (nested("-", ""), "-1"),
        (nested("1+", ""), "200"),
        (nested("", "!"), "1"),
        (nested("sqrt ", ""), "1"),
    ] {
        assert_eq!(value(&expression).await, expected, "{expression}");
    }
    // Refused, one way or the other.
    error(&nested("2^", "")).await;
    let long = "1".repeat(CHARACTERS + 1);
    assert_eq!(
        error(&long).await,
        "the expression is longer than 400 characters"
    );
}

#[tokio::test]
async fn long_results_are_cut() {
    let long = value("3^5000").await;
    assert!(long.starts_with("4038997629"), "{long}");
    assert!(long.ends_with("… (cut: 2386 characters in all)"), "{long}");
    assert!(long.len() < 300);
}

#[tokio::test]
async fn more_at_once_than_may_run_take_turns() {
    let calculator = Calculator::new();
    let expressions: Vec<String> = (0..40).map(|number| format!("{number} * 3")).collect();
    let all = expressions.iter().map(|text| calculator.calculate(text));
    let values = futures::future::join_all(all).await;
    for (number, value) in values.into_iter().enumerate() {
        assert_eq!(value.unwrap(), (number * 3).to_string());
    }
}
