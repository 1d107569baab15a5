use openworkflow::WorkerBuilder;

fn buffered(worker: WorkerBuilder) -> WorkerBuilder {
    worker.layer(tower::buffer::BufferLayer::new(8))
}

fn main() {}
