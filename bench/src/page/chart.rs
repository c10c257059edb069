//! Horizontal bars as SVG: no axes, each bar with its name and its value; readable on light and on dark pages.

use std::fmt::Write as _;

/// A chart: groups of bars on one scale.
#[derive(Debug, Clone)]
pub struct Chart {
    /// Over the bars.
    pub title: String,
    /// What a bar's length says.
    pub scale: String,
    /// From top to bottom.
    pub groups: Vec<Group>,
}

/// Bars of one subject.
#[derive(Debug, Clone)]
pub struct Group {
    /// The subject.
    pub heading: String,
    /// From top to bottom.
    pub bars: Vec<Bar>,
}

/// A bar.
#[derive(Debug, Clone)]
pub struct Bar {
    /// Whose it is.
    pub name: String,
    /// Its length: any unit, the same in the whole chart.
    pub length: f64,
    /// What stands at its end.
    pub value: String,
    /// Whether it is the one that the chart is about.
    pub is_ours: bool,
}

const WIDTH: f64 = 760.0;
const MARGIN: f64 = 24.0;
const NAMES: f64 = 176.0;
/// Right of the longest bar, for its value.
const VALUES: f64 = 150.0;
const BAR: f64 = 16.0;
const STEP: f64 = 22.0;
const HEADING: f64 = 34.0;
const TITLE: f64 = 66.0;

/// Colours of both kinds of page, with enough contrast on its own background, which is drawn too: a page may be dark where
/// the system is light.
const STYLE: &str = "\
text{font:13px system-ui,-apple-system,\"Segoe UI\",Helvetica,Arial,sans-serif;fill:#1f2328}\
.title{font-size:17px;font-weight:600}.scale,.value{fill:#59636e}.heading{font-weight:600}.name{text-anchor:end}\
.page{fill:#fff}.bar{fill:#afb8c1}.ours{fill:#0969da}\
@media(prefers-color-scheme:dark){text{fill:#e6edf3}.scale,.value{fill:#9198a1}.page{fill:#0d1117}.bar{fill:#484f58}.ours{fill:#4493f8}}";

impl Chart {
    /// The chart as a document of its own.
    #[must_use]
    pub fn to_svg(&self) -> String {
        let Self { title, scale, groups } = self;
        let longest = groups.iter().flat_map(|group| &group.bars).map(|bar| bar.length).fold(f64::MIN_POSITIVE, f64::max);
        let room = WIDTH - 2.0 * MARGIN - NAMES - VALUES;
        let mut body = String::new();
        let mut top = MARGIN + TITLE - 24.0;
        for Group { heading, bars } in groups {
            line(&mut body, "heading", MARGIN + NAMES, top + 22.0, heading);
            top += HEADING;
            for Bar { name, length, value, is_ours } in bars {
                let class = if *is_ours { "bar ours" } else { "bar" };
                let (left, width) = (MARGIN + NAMES, room * length / longest);
                line(&mut body, "name", left - 10.0, top + 12.5, name);
                push(&mut body, format_args!(r#"<rect class="{class}" x="{left}" y="{top}" width="{width:.1}" height="{BAR}" rx="2"/>"#));
                line(&mut body, "value", left + width + 8.0, top + 12.5, value);
                top += STEP;
            }
        }
        let height = top + MARGIN - 8.0;
        let (escaped_title, escaped_scale) = (escape(title), escape(scale));
        let mut svg = String::new();
        push(
            &mut svg,
            format_args!(
                r#"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" role="img">"#
            ),
        );
        push(&mut svg, format_args!("<title>{escaped_title}</title>"));
        push(&mut svg, format_args!("<desc>{escaped_scale}</desc>"));
        push(&mut svg, format_args!("<style>{STYLE}</style>"));
        push(&mut svg, format_args!(r#"<rect class="page" width="{WIDTH}" height="{height}" rx="6"/>"#));
        line(&mut svg, "title", MARGIN, MARGIN + 14.0, title);
        line(&mut svg, "scale", MARGIN, MARGIN + 36.0, scale);
        svg + &body + "</svg>\n"
    }
}

fn line(svg: &mut String, class: &str, x: f64, y: f64, text: &str) {
    push(svg, format_args!(r#"<text class="{class}" x="{x:.1}" y="{y:.1}">{}</text>"#, escape(text)));
}

fn push(svg: &mut String, element: std::fmt::Arguments<'_>) {
    // Writing to a string cannot fail.
    let _written = writeln!(svg, "{element}");
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chart() -> Chart {
        let bar = |name: &str, length| Bar { name: name.to_owned(), length, value: format!("{length} <&>"), is_ours: name == "ours" };
        Chart {
            title: "A & B".to_owned(),
            scale: "longer is better".to_owned(),
            groups: vec![
                Group { heading: "one".to_owned(), bars: vec![bar("ours", 2.0), bar("theirs", 1.0)] },
                Group { heading: "two".to_owned(), bars: vec![bar("theirs", 0.5)] },
            ],
        }
    }

    fn widths(svg: &str) -> Vec<f64> {
        let bars = svg.lines().filter(|line| line.contains(r#"class="bar"#));
        bars.map(|line| line.split("width=\"").nth(1).unwrap().split('"').next().unwrap().parse().unwrap()).collect()
    }

    #[test]
    fn lengths_are_on_one_scale_and_the_longest_fits() {
        let widths = widths(&chart().to_svg());
        assert_eq!(widths, [widths[0], widths[0] / 2.0, widths[0] / 4.0]);
        assert!(MARGIN + NAMES + widths[0] + VALUES <= WIDTH - MARGIN);
    }

    #[test]
    fn text_is_escaped_and_one_bar_is_ours() {
        let svg = chart().to_svg();
        assert!(svg.contains("<title>A &amp; B</title>") && svg.contains("1 &lt;&amp;&gt;"), "{svg}");
        assert_eq!(svg.matches(r#"class="bar ours""#).count(), 1);
        assert_eq!(svg.matches("<text").count() + svg.matches("<title>").count(), svg.matches("</t").count());
    }

    #[test]
    fn a_chart_without_bars_is_still_one() {
        assert!(Chart { groups: Vec::new(), ..chart() }.to_svg().ends_with("</svg>\n"));
    }
}
