# The fake GPU in each of its forms.
/amdgpu fake_nodes=2 && /fake spx && rmmod amdgpu || exit 1
/amdgpu fake_nodes=1 fake_partition=cpx && /fake cpx && rmmod amdgpu || exit 1
/amdgpu fake_nodes=8 fake_kcq=2 && /fake eight && rmmod amdgpu || exit 1
