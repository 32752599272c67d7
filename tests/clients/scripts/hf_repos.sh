# `hf`: repos from their creation to their deletion, branches, tags, settings, copies, lists.
expect() { said=$(cat); [[ $said == *"$1"* ]] || { echo "not in the output: $1" >&2; exit 1; }; }
refused() { if "$@" >out 2>&1; then echo "was not refused: $*" >&2; exit 1; fi; cat out; }

# --- repos
hf repos create my-model --private
refused hf repos create my-model | expect "409"
hf repos create my-model --exist-ok
hf repos create my-data --type dataset
hf repos list --json | expect "hubkit/my-model"
printf 'one\n' > a.txt
hf upload my-model a.txt --commit-message "One file" | expect "/hubkit/my-model/"
hf models info hubkit/my-model --json | expect '"private": true'
hf models list --author hubkit --json | expect "hubkit/my-model"
hf datasets list --search my-da -q | expect "hubkit/my-data"
hf models list hubkit/my-model | expect "a.txt"

# --- branches and tags
hf repos branch create hubkit/my-model dev
refused hf repos branch create hubkit/my-model dev | expect "already exists"
hf repos branch create hubkit/my-model dev --exist-ok
printf 'two\n' | hf upload my-model a.txt b.txt --revision dev >/dev/null
hf repos tag create hubkit/my-model v1 -m "The first" --revision dev
hf repos tag list hubkit/my-model | expect "v1"
hf repos tag delete hubkit/my-model v1 -y
hf repos branch delete hubkit/my-model dev
refused hf download hubkit/my-model b.txt --revision dev | expect "Revision"

# --- settings, moves, copies
hf repos settings hubkit/my-model --public --gated auto
hf models info hubkit/my-model --json | expect '"gated": "auto"'
hf repos settings hubkit/my-model --gated false
hf repos move hubkit/my-model hubkit/renamed
hf models info hubkit/my-model --json | expect '"hubkit/renamed"'   # the old name leads to the new one
hf repos duplicate hubkit/renamed hubkit/copy --private
hf download hubkit/copy a.txt --local-dir copy >/dev/null
cmp a.txt copy/a.txt
hf cp hf://hubkit/copy/a.txt here.txt
cmp a.txt here.txt
hf cp a.txt hf://hubkit/copy/sub/c.txt
hf repos delete-files hubkit/copy "sub/*"
refused hf download hubkit/copy sub/c.txt | expect "File not found"

# --- the end
hf repos delete renamed -y
refused hf repos delete renamed -y | expect "not found"
refused hf models info hubkit/renamed | expect "not found"
hf models info hubkit/copy --json | expect '"hubkit/copy"'
