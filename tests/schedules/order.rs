//! Which actor goes next: each order once, depth first.

/// The choices of one play. The first ones repeat those of the play before.
#[derive(Debug, Default)]
pub(crate) struct Order {
    choices: Vec<Choice>,
    made: usize,
}

#[derive(Debug)]
struct Choice {
    /// Who could have gone.
    ready: Vec<usize>,
    /// Which of them went.
    taken: usize,
}

impl Order {
    /// Chooses one of those who are ready.
    pub(crate) fn choose(&mut self, ready: &[usize]) -> usize {
        match self.choices.get(self.made) {
            Some(choice) => assert_eq!(
                choice.ready, ready,
                "choice {} was between others the last time: the scenario depends on chance",
                self.made
            ),
            None => self.choices.push(Choice {
                ready: ready.to_vec(),
                taken: 0,
            }),
        }
        let choice = &self.choices[self.made];
        self.made += 1;
        choice.ready[choice.taken]
    }

    /// The order after this one; `None` after the last.
    pub(crate) fn next(mut self) -> Option<Self> {
        assert_eq!(self.made, self.choices.len(), "the play ended too early");
        while let Some(mut last) = self.choices.pop() {
            last.taken += 1;
            if last.taken < last.ready.len() {
                self.choices.push(last);
                self.made = 0;
                return Some(self);
            }
        }
        None
    }
}

#[test]
fn each_order_comes_once() {
    let mut orders = Vec::new();
    let mut next = Some(Order::default());
    while let Some(mut order) = next {
        let mut left = [2, 1, 1];
        let mut word = String::new();
        loop {
            let ready: Vec<usize> = (0..3).filter(|actor| left[*actor] > 0).collect();
            if ready.is_empty() {
                break;
            }
            let actor = order.choose(&ready);
            left[actor] -= 1;
            word.push(['a', 'b', 'c'][actor]);
        }
        orders.push(word);
        next = order.next();
    }
    let expected = "aabc aacb abac abca acab acba baac baca bcaa caab caba cbaa";
    assert_eq!(orders.join(" "), expected);
}
