//! A dashboard as Grafana would lay it out: each panel at its place, with a line for each series of its query's answer.

use std::error::Error;

use anyhow::{Context, Result};
use plotters::chart::ChartBuilder;
use plotters::drawing::IntoDrawingArea;
use plotters::element::PathElement;
use plotters::prelude::{Color, IntoFont, LineSeries, Palette, Palette99, RGBColor, SVGBackend, SeriesLabelPosition, TextStyle, WHITE};
use serde_json::Value;

/// Pixels of a unit of Grafana's grid, which has 24 columns.
const UNIT: (u32, u32) = (52, 26);
const COLUMNS: u32 = 24;
/// Series that a picture has room for.
const SERIES_MAX: usize = 6;
const GREY: RGBColor = RGBColor(0x59, 0x63, 0x6e);

/// A dashboard.
#[derive(Debug, Clone)]
pub(super) struct Board {
    title: String,
    panels: Vec<Panel>,
}

#[derive(Debug, Clone)]
struct Panel {
    title: String,
    unit: String,
    query: String,
    /// Left, top, width and height, in units of the grid.
    place: [u32; 4],
    series: Vec<Series>,
}

#[derive(Debug, Clone, PartialEq)]
struct Series {
    name: String,
    /// Seconds and value.
    points: Vec<(f64, f64)>,
}

impl Board {
    pub(super) fn read(board: &Value) -> Result<Self> {
        let panels = board["panels"].as_array().context("it has no panels")?;
        let title = board["title"].as_str().context("it has no title")?.to_owned();
        Ok(Self { title, panels: panels.iter().map(Panel::read).collect::<Result<_>>()? })
    }

    /// With what `ask` answers to each query over a range of time.
    pub(super) fn answered(mut self, ask: impl Fn(&str) -> Result<Value>) -> Result<Self> {
        for panel in &mut self.panels {
            panel.series = series(&ask(&panel.query)?).with_context(|| panel.title.clone())?;
        }
        Ok(self)
    }

    /// How many panels have something to tell.
    pub(super) fn told(&self) -> usize {
        self.panels.iter().filter(|panel| !panel.series.is_empty()).count()
    }

    pub(super) fn titles(&self) -> impl Iterator<Item = &str> {
        self.panels.iter().map(|panel| panel.title.as_str())
    }

    pub(super) fn draw(&self) -> Result<String, Box<dyn Error>> {
        const HEAD: u32 = 40;
        let rows = self.panels.iter().map(|panel| panel.place[1] + panel.place[3]).max().unwrap_or_default();
        let size = (COLUMNS * UNIT.0, HEAD + rows * UNIT.1);
        let mut svg = String::new();
        {
            let page = SVGBackend::with_string(&mut svg, size).into_drawing_area();
            page.fill(&WHITE)?;
            page.draw_text(&self.title, &TextStyle::from(("sans-serif", 20).into_font()), (12, 12))?;
            for panel in &self.panels {
                let [left, top, width, height] = panel.place;
                let area = page.clone().shrink((left * UNIT.0, HEAD + top * UNIT.1), (width * UNIT.0, height * UNIT.1));
                panel.draw(&area)?;
            }
            page.present()?;
        }
        Ok(svg)
    }
}

impl Panel {
    fn read(panel: &Value) -> Result<Self> {
        let text = |value: &Value, what: &'static str| value.as_str().map(str::to_owned).with_context(|| format!("a panel has no {what}"));
        let place =
            ["x", "y", "w", "h"].map(|side| panel["gridPos"][side].as_u64().and_then(|units| u32::try_from(units).ok()).unwrap_or(8));
        Ok(Self {
            title: text(&panel["title"], "title")?,
            unit: panel["fieldConfig"]["defaults"]["unit"].as_str().unwrap_or("short").to_owned(),
            query: text(&panel["targets"][0]["expr"], "query")?.replace("$node", "node1"),
            place,
            series: Vec::new(),
        })
    }

    fn draw(&self, area: &plotters::drawing::DrawingArea<SVGBackend<'_>, plotters::coord::Shift>) -> Result<(), Box<dyn Error>> {
        let points = || self.series.iter().flat_map(|series| &series.points);
        let begin = points().map(|(at, _)| *at).fold(f64::INFINITY, f64::min);
        let end = points().map(|(at, _)| *at).fold(f64::NEG_INFINITY, f64::max);
        let top = points().map(|(_, value)| *value).fold(0.0, f64::max);
        let (seconds, top) = if begin < end { (end - begin, top) } else { (60.0, top) };
        let top = if top > 0.0 { top * 1.15 } else { 1.0 };
        let mut chart = ChartBuilder::on(area)
            .caption(&self.title, ("sans-serif", 15))
            .margin(10)
            .x_label_area_size(22)
            .y_label_area_size(58)
            .build_cartesian_2d(0.0..seconds, 0.0..top)?;
        chart
            .configure_mesh()
            .light_line_style(WHITE)
            .x_labels(5)
            .y_labels(5)
            .x_label_formatter(&|seconds| format!("{seconds:.0} s"))
            .y_label_formatter(&|value| in_unit(*value, &self.unit))
            .draw()?;
        if self.series.is_empty() {
            let (width, height) = area.dim_in_pixel();
            let style = TextStyle::from(("sans-serif", 13).into_font()).color(&GREY);
            area.draw_text("nothing to tell here", &style, (i32::try_from(width / 2)? - 50, i32::try_from(height / 2)?))?;
            return Ok(());
        }
        for (number, Series { name, points }) in self.series.iter().take(SERIES_MAX).enumerate() {
            let color = Palette99::pick(number).to_rgba();
            let points = points.iter().map(|(at, value)| (at - begin, *value));
            chart
                .draw_series(LineSeries::new(points, color.stroke_width(2)))?
                .label(name)
                .legend(move |(x, y)| PathElement::new(vec![(x, y), (x + 14, y)], color.stroke_width(2)));
        }
        chart
            .configure_series_labels()
            .position(SeriesLabelPosition::UpperLeft)
            .label_font(("sans-serif", 11))
            .background_style(WHITE.mix(0.7))
            .draw()?;
        Ok(())
    }
}

/// What Prometheus answers, by the labels that tell its series apart.
fn series(answer: &Value) -> Result<Vec<Series>> {
    let rows = answer["data"]["result"].as_array().with_context(|| format!("no answer: {answer}"))?;
    let of = |row: &Value| -> Result<Series> {
        let labels = row["metric"].as_object().into_iter().flatten();
        let told = labels.filter(|(name, _)| !["__name__", "instance", "job"].contains(&name.as_str()));
        let words: Vec<_> = told.filter_map(|(_, value)| value.as_str()).filter(|value| !value.is_empty()).collect();
        let points = row["values"].as_array().context("no values")?.iter().map(|point| -> Result<(f64, f64)> {
            Ok((point[0].as_f64().context("no time")?, point[1].as_str().context("no value")?.parse()?))
        });
        let points: Vec<_> = points.collect::<Result<_>>()?;
        // A rate of nothing by nothing.
        let points = points.into_iter().filter(|(_, value)| value.is_finite()).collect();
        let name = if words.is_empty() { "all".to_owned() } else { words.join(", ") };
        Ok(Series { name, points })
    };
    let series = rows.iter().map(of).collect::<Result<Vec<_>>>()?;
    Ok(series.into_iter().filter(|series| !series.points.is_empty()).collect())
}

/// A value as Grafana writes it in this unit.
fn in_unit(value: f64, unit: &str) -> String {
    let scaled = |base: f64, suffix: &str| {
        let steps = ["", "k", "M", "G", "T"];
        let step = (0..steps.len() - 1).find(|step| value < base.powi(*step as i32 + 1)).unwrap_or(steps.len() - 1);
        let number = value / base.powi(step as i32);
        let digits = if number == 0.0 || number >= 10.0 { 0 } else { 1 };
        format!("{number:.digits$} {}{suffix}", steps[step]).trim_end().to_owned()
    };
    match unit {
        "percentunit" => format!("{:.0} %", value * 100.0),
        "s" if value < 1.0 => format!("{:.1} ms", value * 1000.0),
        "s" => format!("{value:.1} s"),
        "bps" => scaled(1000.0, "b/s"),
        "bytes" => scaled(1024.0, "iB"),
        "ops" => format!("{value:.2} /s"),
        "pps" => scaled(1000.0, "p/s"),
        _ => scaled(1000.0, ""),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn answer(values: &Value) -> Value {
        json!({ "data": { "result": [{ "metric": { "__name__": "x", "job": "barewire", "scope": "internet" }, "values": values }] } })
    }

    #[test]
    fn a_board_is_drawn_with_each_panel_and_series() {
        let panel = |title: &str, x: u64| {
            json!({ "title": title, "gridPos": { "x": x, "y": 0, "w": 12, "h": 8 }, "targets": [{ "expr": format!("q{x}{{node=\"$node\"}}") }],
                    "fieldConfig": { "defaults": { "unit": "bps" } } })
        };
        let board = Board::read(&json!({ "title": "A board", "panels": [panel("Sent", 0), panel("Quiet", 12)] })).unwrap();
        let asked = |query: &str| -> Result<Value> {
            Ok(match query {
                "q0{node=\"node1\"}" => answer(&json!([[100.0, "5"], [160.0, "2500000"], [170.0, "NaN"]])),
                _ => json!({ "data": { "result": [] } }),
            })
        };
        let board = board.answered(asked).unwrap();
        assert_eq!((board.told(), board.panels[0].series[0].points.len()), (1, 2));
        let svg = board.draw().unwrap();
        for part in ["A board", "Sent", "Quiet", "internet", "nothing to tell here", "Mb/s"] {
            assert!(svg.contains(part), "no {part} in {svg}");
        }
        assert!(board.answered(|_| Ok(json!({ "status": "error" }))).is_err());
    }

    #[test]
    fn values_have_their_units() {
        let values = [
            (0.0, "short"),
            (1_500.0, "short"),
            (2_500_000.0, "bps"),
            (2_048.0, "bytes"),
            (0.25, "percentunit"),
            (0.0021, "s"),
            (12.0, "pps"),
        ];
        let texts = values.map(|(value, unit)| in_unit(value, unit));
        assert_eq!(texts, ["0", "1.5 k", "2.5 Mb/s", "2.0 kiB", "25 %", "2.1 ms", "12 p/s"]);
    }
}
