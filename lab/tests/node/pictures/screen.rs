//! What a command prints, as a picture of a terminal. Pure.

use std::fmt::Write as _;

/// Of a letter of the font below, in pixels.
const LETTER: f64 = 7.83;
const LINE: f64 = 18.0;
const MARGIN: f64 = 20.0;

/// Light and dark, as the reader's system is.
const STYLE: &str = "\
text{font:13px ui-monospace,SFMono-Regular,Menlo,Consolas,\"DejaVu Sans Mono\",monospace;fill:#1f2328;white-space:pre}\
.prompt{fill:#0969da;font-weight:600}.page{fill:#f6f8fa;stroke:#d1d9e0}\
@media(prefers-color-scheme:dark){text{fill:#e6edf3}.prompt{fill:#4493f8}.page{fill:#0d1117;stroke:#3d444d}}";

/// A command and what it has printed.
pub(super) fn draw(command: &str, printed: &str) -> String {
    let prompt = format!("$ {command}");
    let lines: Vec<&str> = printed.trim_end().lines().collect();
    let longest = lines.iter().copied().chain([prompt.as_str()]).map(|line| line.chars().count()).max().unwrap_or_default();
    let (width, height) = ((2.0 * MARGIN + longest as f64 * LETTER).ceil(), 2.0 * MARGIN + (lines.len() + 1) as f64 * LINE);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width:.0} {height:.0}\" width=\"{width:.0}\" height=\"{height:.0}\" role=\"img\">\n\
         <title>{}</title>\n<style>{STYLE}</style>\n<rect class=\"page\" width=\"{width:.0}\" height=\"{height:.0}\" rx=\"6\"/>\n",
        escape(command)
    );
    for (row, line) in [prompt.as_str()].into_iter().chain(lines).enumerate() {
        let class = if row == 0 { " class=\"prompt\"" } else { "" };
        let y = MARGIN + (row as f64 + 0.8) * LINE;
        // Writing to a string cannot fail.
        let _written = writeln!(svg, "<text xml:space=\"preserve\"{class} x=\"{MARGIN}\" y=\"{y:.1}\">{}</text>", escape(line));
    }
    svg + "</svg>\n"
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[test]
fn a_screen_has_a_line_for_each_line_and_room_for_the_longest() {
    let svg = draw("pods", "a -> b & c\n   indented\n\n");
    assert_eq!(svg.matches("<text").count(), 3);
    assert!(svg.contains(">a -&gt; b &amp; c<") && svg.contains(">   indented<") && svg.contains(">$ pods<"), "{svg}");
    let width: f64 = svg.split("width=\"").nth(1).and_then(|rest| rest.split('"').next()).and_then(|width| width.parse().ok()).unwrap();
    assert!(width >= 2.0 * MARGIN + 11.0 * LETTER, "{svg}");
}
