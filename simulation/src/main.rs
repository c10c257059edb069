//! tmp
use simulation::scale::*;
fn main() {
    let a: Vec<String> = std::env::args().collect();
    let seed: u64 = a[2].parse().unwrap();
    let nodes: u64 = a[3].parse().unwrap();
    let scale = Scale { nodes, pods: nodes * 80 / 3, seed };
    let t = std::time::Instant::now();
    match a[1].as_str() {
        "join" => {
            let j = join::join(scale, 0);
            println!("{j:?} ratio {}", j.seconds / scale.bucket_limit());
        }
        "pjoin" => {
            let j = join::join(scale, 1);
            println!("{j:?} ratio {}", j.seconds / scale.bucket_limit());
        }
        "churn" => println!("{:#?}", churn::churn(scale)),
        "outage" => println!("{:#?}", outage::outage(scale)),
        _ => {}
    }
    println!("{:?}", t.elapsed());
}
