//! A case's table, and how husk stands to its goals.

use std::fmt::Write;

use crate::case::Case;
use crate::measure::Cost;
use crate::tools::Tool;

const MB: f64 = 1e6;

/// Medians of the rounds; ratios say how much more than husk a tool takes.
pub fn table(case: &Case, floors: &[(f64, f64)], results: &[(Tool, Vec<Cost>)]) -> String {
    let mut text = format!(
        "{}\n{} files, {:.1} MB packed, {:.1} MB unpacked\n\n{:<30}{:>9}{:>8}{:>11}{:>8}{:>11}{:>8}\n",
        case.name,
        case.files,
        case.packed as f64 / MB,
        case.content as f64 / MB,
        "medians",
        "wall",
        "ratio",
        "CPU",
        "ratio",
        "disk",
        "ratio",
    );
    let costs = |tool: Tool| {
        let of_tool = results.iter().find(|(other, _)| *other == tool);
        of_tool.map(|(_, costs)| costs).filter(|costs| !costs.is_empty()).map(|costs| middle(costs))
    };
    let Some(husk) = costs(Tool::Husk) else { return text + "husk itself failed\n" };
    let (wall, cpu) =
        (median(floors.iter().map(|floor| floor.0)), median(floors.iter().map(|floor| floor.1)));
    line(&mut text, "floor: zcat | sha256sum", Cost { wall, cpu, disk: 0 }, husk);
    for (tool, _) in results {
        match costs(*tool) {
            Some(cost) => line(&mut text, tool.name(), cost, husk),
            // Writing to a String cannot fail, here and below.
            None => drop(writeln!(text, "{:<30}  skipped, see above", tool.name())),
        }
    }
    let _ = writeln!(
        text,
        "\nhusk takes {:.2} times the floor's time, {:.2} times its CPU seconds",
        husk.wall / wall,
        husk.cpu / cpu
    );
    let _ = writeln!(
        text,
        "husk's disk use is {:+.1} % of the unpacked content",
        (husk.disk as f64 / case.content as f64 - 1.0) * 100.0
    );
    text
}

fn line(text: &mut String, name: &str, cost: Cost, husk: Cost) {
    let ratio = |of: f64, to: f64| of / to;
    let disk = match cost.disk {
        0 => format!("{:>11}{:>8}", "-", "-"),
        disk => format!("{:>8.1} MB{:>8.2}", disk as f64 / MB, ratio(disk as f64, husk.disk as f64)),
    };
    let _ = writeln!(
        text,
        "{name:<30}{:>7.2} s{:>8.2}{:>9.2} s{:>8.2}{disk}",
        cost.wall,
        ratio(cost.wall, husk.wall),
        cost.cpu,
        ratio(cost.cpu, husk.cpu),
    );
}

fn middle(costs: &[Cost]) -> Cost {
    Cost {
        wall: median(costs.iter().map(|cost| cost.wall)),
        cpu: median(costs.iter().map(|cost| cost.cpu)),
        disk: median(costs.iter().map(|cost| cost.disk as f64)) as u64,
    }
}

fn median(samples: impl Iterator<Item = f64>) -> f64 {
    husk_tests::median(&samples.collect::<Vec<_>>())
}
