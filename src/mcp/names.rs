//! The names tools are offered under: a tool's own where no other server has
//! it, the server's name before it where two do. Knows nothing of servers
//! beyond their names.

use std::collections::{HashMap, HashSet};

/// The longest name that chat templates and tool-call formats take for sure.
const LONGEST: usize = 64;

/// A unique name for each `(server, tool)` pair, in the same order. The pairs
/// themselves are distinct.
pub(super) fn assign(pairs: &[(&str, &str)]) -> Vec<String> {
    let mut servers_with: HashMap<&str, usize> = HashMap::new();
    for (_, tool) in pairs {
        *servers_with.entry(tool).or_default() += 1;
    }
    let is_shared = |tool: &str| servers_with[tool] > 1;
    // Names that are nobody else's come first: they never change.
    let mut taken: HashSet<String> = pairs
        .iter()
        .filter(|(_, tool)| !is_shared(tool))
        .map(|(_, tool)| (*tool).to_owned())
        .collect();
    pairs
        .iter()
        .map(|(server, tool)| {
            if !is_shared(tool) {
                return (*tool).to_owned();
            }
            let plain = prefixed(server, tool);
            let name = std::iter::once(plain.clone())
                .chain((2_usize..).map(|number| numbered(&plain, number)))
                .find(|name| !taken.contains(name))
                .unwrap_or(plain);
            taken.insert(name.clone());
            name
        })
        .collect()
}

/// `server_tool`, in the characters and the length every format takes.
pub(super) fn prefixed(server: &str, tool: &str) -> String {
    format!("{server}_{tool}")
        .chars()
        .map(|char| match char {
            'a'..='z' | 'A'..='Z' | '0'..='9' | '_' | '-' => char,
            _ => '_',
        })
        .take(LONGEST)
        .collect()
}

fn numbered(name: &str, number: usize) -> String {
    let end = format!("_{number}");
    let kept = name.len().min(LONGEST - end.len());
    // `prefixed` leaves ASCII alone, so that every index is a boundary.
    format!("{}{end}", &name[..kept])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_names_get_their_server() {
        let names = assign(&[("a", "echo"), ("a", "add"), ("b", "echo")]);
        assert_eq!(names, ["a_echo", "add", "b_echo"]);
    }

    #[test]
    fn prefixed_names_are_unique_and_clean() {
        let names = assign(&[
            ("a b", "echo"),
            ("a.b", "echo"),
            ("c", "a_b_echo"),
            ("über", "echo"),
        ]);
        assert_eq!(names, ["a_b_echo_2", "a_b_echo_3", "a_b_echo", "_ber_echo"]);
    }

    #[test]
    fn long_names_stay_unique() {
        let long = "x".repeat(100);
        let names = assign(&[(&long, "t"), (&format!("{long}y"), "t")]);
        assert_eq!(names[0], "x".repeat(64));
        assert_eq!(names[1], format!("{}_2", "x".repeat(62)));
    }

    #[test]
    fn whatever_comes_in_unique_names_come_out() {
        use rand::{Rng, SeedableRng};
        let mut random = rand::rngs::StdRng::seed_from_u64(7);
        for _ in 0..2_000 {
            let mut pairs = HashSet::new();
            for _ in 0..12 {
                let server = ["a", "a_b", "a b", "b"][random.random_range(0..4)];
                let tool = ["c", "b_c", "c_2", "a_b_c", "a_b_c_2"][random.random_range(0..5)];
                pairs.insert((server, tool));
            }
            let pairs: Vec<_> = pairs.into_iter().collect();
            let names = assign(&pairs);
            let distinct: HashSet<_> = names.iter().collect();
            assert_eq!(distinct.len(), pairs.len(), "{pairs:?} {names:?}");
        }
    }
}
